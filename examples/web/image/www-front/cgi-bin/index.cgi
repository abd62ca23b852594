#!/bin/sh
# The front end: asks the store for the number of visits, and says which pod answered.
visits=$(fetch http://store/cgi-bin/visit) || visits="the store does not answer"
printf 'Content-Type: text/html\r\n\r\n'
cat <<PAGE
<!doctype html>
<title>Orlop example</title>
<style>body { font: 1.2rem sans-serif; margin: 4rem auto; max-width: 40rem } b { color: #0b5 }</style>
<h1>Stowed on the orlop deck</h1>
<p>Answered by pod <b>$(hostname)</b>, release <b>${RELEASE:-1}</b>.</p>
<p>Visits, counted by the store: <b>$visits</b></p>
PAGE
