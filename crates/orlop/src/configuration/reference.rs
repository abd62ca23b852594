//! `docs/configuration.md` lists every key, as the flags describe themselves. The test fails where it does not; run it with
//! `ORLOP_WRITE_DOCS=1` to write the list anew.

use super::{VERBS, keys, with_file};
use clap::{Arg, ArgAction, CommandFactory};
use std::{fmt::Write, fs, path::Path};

const BEGIN: &str = "<!-- keys: written by the tests -->\n";
const END: &str = "<!-- end of keys -->\n";

fn description(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    help.trim_end_matches('.').replace('\n', " ").replace('|', "\\|")
}

fn kind(arg: &Arg) -> String {
    let name =
        arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    let values = arg.get_possible_values();
    let one = match arg.get_action() {
        ArgAction::SetTrue => return "true or false".into(),
        _ if !values.is_empty() => {
            values.iter().map(|v| format!("`{}`", v.get_name())).collect::<Vec<_>>().join(", ")
        }
        _ => format!("`{}`", name.replace('|', "\\|")),
    };
    if matches!(arg.get_action(), ArgAction::Append) { format!("list of {one}") } else { one }
}

fn default(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    match values.join(",") {
        none if none.is_empty() => String::new(),
        text => format!("`{text}`"),
    }
}

fn tables() -> String {
    let command = with_file(crate::Arguments::command());
    let mut text = String::new();
    for verb in VERBS {
        writeln!(
            text,
            "## Keys of `orlop {verb}`\n\n| key | value | default | what it says |\n|---|---|---|---|"
        )
        .expect("text");
        let of_verb = command.find_subcommand(verb).expect("a verb");
        for arg in keys(of_verb).filter(|arg| !arg.is_hide_set()) {
            let key = arg.get_long().unwrap_or_default();
            writeln!(text, "| `{key}` | {} | {} | {} |", kind(arg), default(arg), description(arg))
                .expect("text");
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_key_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let document = fs::read_to_string(&path).expect("docs/configuration.md");
    let (before, rest) = document.split_once(BEGIN).expect("where the keys begin");
    let (_, after) = rest.split_once(END).expect("where the keys end");
    let wanted = format!("{before}{BEGIN}\n{}{END}{after}", tables());
    if std::env::var_os("ORLOP_WRITE_DOCS").is_some() {
        fs::write(&path, &wanted).expect("written");
    }
    let now = fs::read_to_string(&path).expect("docs/configuration.md");
    assert!(
        now == wanted,
        "docs/configuration.md is not what the flags say: run this test with ORLOP_WRITE_DOCS=1"
    );
}
