//! The configuration file of `orlop server` and `orlop agent`: a flag in YAML is a key of the same name. What the file says becomes
//! flags before those that were typed, so that each has one meaning, one check and one place where it is described.

mod file;
#[cfg(test)]
mod reference;

use crate::Error;
use clap::{Arg, ArgAction, ArgMatches, Command, builder::ValueHint, parser::ValueSource, value_parser};
use file::{Setting, Wrong};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Read if it is there and no other is named.
pub(crate) const DEFAULT: &str = "/etc/orlop/config.yaml";
const FLAG: &str = "config";
/// The verbs that have such a file.
const VERBS: [&str; 2] = ["server", "agent"];

/// Adds `--config` to the verbs that read it.
pub(crate) fn with_file(mut command: Command) -> Command {
    for verb in VERBS {
        command = command.mut_subcommand(verb, |verb| {
            verb.arg(
                Arg::new(FLAG)
                    .long(FLAG)
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .value_hint(ValueHint::FilePath)
                    .help(format!(
                        "File that says in YAML what flags say; what is typed goes before it [default: {DEFAULT}, if it is there]"
                    )),
            )
        });
    }
    command
}

/// What was typed, with what the file says put before it. `command` is that of the whole program.
pub(crate) fn expand(
    command: &Command,
    typed: Vec<OsString>,
    default: &Path,
) -> Result<Vec<OsString>, Error> {
    let Ok(matches) = command.clone().try_get_matches_from(&typed) else { return Ok(typed) };
    let Some((verb, given)) = matches.subcommand().filter(|(verb, _)| VERBS.contains(verb)) else {
        return Ok(typed);
    };
    let named = given.get_one::<PathBuf>(FLAG).cloned();
    let Some(file) = named.or_else(|| default.exists().then(|| default.to_path_buf())) else {
        return Ok(typed);
    };
    let text = fs::read_to_string(&file).map_err(Error::at(format!("reading {}", file.display())))?;
    let wrong =
        |wrong: Wrong| Error::Configuration(format!("{}:{}: {}", file.display(), wrong.line, wrong.what));
    let settings = file::settings(&text).map_err(wrong)?;
    let mut expanded: Vec<OsString> = typed.iter().take(2).cloned().collect();
    for setting in &settings {
        let flags = flags(command, verb, setting).map_err(wrong)?;
        if !is_given(given, &setting.key) {
            expanded.extend(flags);
        }
    }
    expanded.extend(typed.into_iter().skip(2));
    Ok(expanded)
}

/// The flags that can stand in a file.
fn keys(verb: &Command) -> impl Iterator<Item = &Arg> {
    verb.get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|long| ![FLAG, "help", "version"].contains(&long)))
}

fn find<'a>(command: &'a Command, verb: &str, key: &str) -> Option<&'a Arg> {
    keys(command.find_subcommand(verb)?).find(|arg| arg.get_long() == Some(key))
}

/// Whether a flag was typed, or is in the environment.
fn is_given(matches: &ArgMatches, key: &str) -> bool {
    let source = matches
        .ids()
        .find(|id| id.as_str().replace('_', "-") == key)
        .and_then(|id| matches.value_source(id.as_str()));
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The flags that say what a setting says.
fn flags(command: &Command, verb: &str, setting: &Setting) -> Result<Vec<OsString>, Wrong> {
    let (key, line) = (&setting.key, setting.line);
    let wrong = |what: String| Wrong { line, what };
    let Some(arg) = find(command, verb, key) else {
        let other = VERBS.iter().find(|other| find(command, other, key).is_some());
        return Err(wrong(match other {
            Some(other) => format!("{key:?} is a key of `orlop {other}`, not of `orlop {verb}`"),
            None => format!("there is no key {key:?}{}", file::like(key, keys_of(command, verb))),
        }));
    };
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let values = setting.values(is_switch, matches!(arg.get_action(), ArgAction::Append)).map_err(wrong)?;
    let flags: Vec<OsString> = match (is_switch, values.as_slice()) {
        (true, [value]) if value == "true" => vec![format!("--{key}").into()],
        (true, _) => vec![],
        (false, values) => values.iter().map(|value| format!("--{key}={value}").into()).collect(),
    };
    for flag in &flags {
        check(command, verb, flag).map_err(wrong)?;
    }
    Ok(flags)
}

fn keys_of<'a>(command: &'a Command, verb: &str) -> impl Iterator<Item = &'a str> {
    command.find_subcommand(verb).into_iter().flat_map(keys).filter_map(Arg::get_long)
}

/// Whether a flag has a value that it can have. What it needs besides is seen when all are together.
fn check(command: &Command, verb: &str, flag: &OsString) -> Result<(), String> {
    use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};
    let alone = [OsString::from(command.get_name()), verb.into(), flag.clone()];
    match command.clone().try_get_matches_from(alone) {
        Err(error) if !matches!(error.kind(), MissingRequiredArgument | ArgumentConflict) => {
            let text = error.to_string();
            let text = text.split("\n\nFor more").next().unwrap_or_default();
            let words: Vec<&str> = text.trim_start_matches("error: ").split_whitespace().collect();
            Err(words.join(" "))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// What becomes of typed words with such a file.
    fn expanded(text: &str, typed: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.yaml");
        fs::write(&path, text).expect("written");
        let typed = ["orlop"].iter().chain(typed).map(OsString::from).collect();
        let command = with_file(crate::Arguments::command());
        let all = expand(&command, typed, &path)
            .map_err(|e| e.to_string().replace(&folder.path().display().to_string(), ""))?;
        Ok(all.into_iter().skip(2).map(|word| word.into_string().expect("text")).collect())
    }

    #[test]
    fn a_file_says_what_flags_say_and_flags_go_before_it() {
        let file = "https-port: 7443\ntls-san: [a, b]\ncluster-domain: \"x.y\"\neviction-hard: memory.available<10Mi # a comment\n";
        let all = expanded(file, &["server", "--cluster-domain", "z"]).expect("read");
        assert_eq!(
            all,
            [
                "--https-port=7443",
                "--tls-san=a",
                "--tls-san=b",
                "--eviction-hard=memory.available<10Mi",
                "--cluster-domain",
                "z"
            ]
        );
        let command = with_file(crate::Arguments::command());
        let words = ["orlop", "server"].map(String::from).into_iter().chain(all);
        command.try_get_matches_from(words).expect("flags");
        assert_eq!(expanded("", &["server"]).expect("an empty file"), Vec::<String>::new());
        assert_eq!(expanded("nonsense: 1", &["version"]).expect("not read"), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (file, verb, want) in [
            (
                "https-port: 1\nhttps-prt: 2\n",
                "server",
                "/c.yaml:2: there is no key \"https-prt\": is it \"https-port\"?",
            ),
            (
                "\n\nhttps-port: many\n",
                "server",
                "/c.yaml:3: invalid value 'many' for '--https-port <PORT>': invalid digit found in string",
            ),
            ("https-port: 99999\n", "server", "/c.yaml:1: invalid value '99999'"),
            ("https-port: [1, 2]\n", "server", "/c.yaml:1: \"https-port\" takes one value, not a list"),
            ("https-port: {a: 1}\n", "server", "/c.yaml:1: \"https-port\" takes a value, not a map"),
            ("https-port:\n", "server", "/c.yaml:1: \"https-port\" has no value"),
            (
                "node-name: true\n",
                "server",
                "/c.yaml:1: \"node-name\" takes text or a number, not true: write it in quotes if it is text",
            ),
            ("cluster-cidr: 10.0.0.0/16\n", "agent", "is a key of `orlop server`, not of `orlop agent`"),
            ("https-port: 1\nhttps-port: 2\n", "server", "/c.yaml:2: "),
            ("- a\n", "server", "/c.yaml:1: "),
            ("a: [\n", "server", "/c.yaml:"),
            ("config: x\n", "server", "there is no key \"config\""),
        ] {
            let why = expanded(file, &[verb]).expect_err(file);
            assert!(why.contains(want), "{file:?}: {why}");
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_the_usual_one_need_not() {
        let command = with_file(crate::Arguments::command());
        let none = Path::new("/nonexistent/config.yaml");
        let typed: Vec<OsString> = ["orlop", "server"].map(OsString::from).into();
        assert_eq!(expand(&command, typed.clone(), none).expect("as typed"), typed);
        let named: Vec<OsString> =
            ["orlop", "agent", "--config", "/nonexistent/config.yaml"].map(OsString::from).into();
        let why = expand(&command, named, none).expect_err("refused").to_string();
        assert!(why.contains("reading /nonexistent/config.yaml"), "{why}");
    }
}
