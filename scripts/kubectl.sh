# Sourced. find_kubectl DIR: puts a kubectl of at least 1.32 first in PATH; where the machine has none, Debian's next release
# (trixie) provides it, unpacked into DIR without touching the system.
find_kubectl() {
    minor() { "$1" version --client -o json 2>/dev/null | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' | head -n 1; }
    if command -v kubectl >/dev/null && [ "$(minor kubectl)" -ge 32 ] 2>/dev/null; then return 0; fi
    if [ ! -x "$1/usr/bin/kubectl" ]; then
        mkdir -p "$1/apt/lists/partial" "$1/apt/sources" "$1/apt/archives/partial"
        for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
            if [ -f "$file" ] && grep -q bookworm "$file"; then
                sed 's/bookworm/trixie/g' "$file" >"$1/apt/sources/$(basename "$file")"
            fi
        done
        set -- "$1" -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$1/apt/sources" \
            -o "Dir::State::lists=$1/apt/lists" -o "Dir::Cache::archives=$1/apt/archives" -o APT::Sandbox::User=root
        target=$1
        shift
        apt-get "$@" -qq update
        (cd "$target" && apt-get "$@" -qq download kubectl && dpkg -x kubectl_*.deb .)
        set -- "$target"
    fi
    PATH="$1/usr/bin:$PATH"
    export PATH
}
