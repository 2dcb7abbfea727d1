//! Env files: the assignments of a POSIX shell, read and never executed.
//!
//! `cluster.env` and `sidecar.env` of an Istio VM are sourced by a shell script, so their quoting is a
//! shell's: `NAME=value`, `export NAME=value`, single quotes, double quotes with backslashes, `#` comments,
//! a backslash at the end of a line. What a shell would have to execute (`$VAR`, `` `cmd` ``, `;`, `&&`) is a
//! fault instead of a guess. POSIX Shell Command Language, sections 2.2 and 2.9.1.

use std::iter::Peekable;
use std::str::Chars;

use super::options::OPTIONS;
use super::{Faults, Key, Origin, Raw};

/// Istio's other names for an option; the name in the table wins, in whatever order the two stand.
const WEAKER: [(&str, Key); 4] = [
    ("REDIRECT_DNS", Key::RedirectDns),
    ("DROP_INVALID", Key::DropInvalid),
    ("ENVOY_UID", Key::ProxyUid),
    ("ENVOY_USER", Key::ProxyUid),
];

/// A name that stands in Istio's own template of sidecar.env and that nothing has ever read, and the right one.
const MISSPELT: (&str, &str) = ("ISTIO_INBOUND_EXCLUDE_PORTS", "ISTIO_LOCAL_EXCLUDE_PORTS");

/// Reads `text`. The second value lists the names that are no capture option here.
#[must_use]
pub fn parse(path: &str, text: &str, faults: &mut Faults) -> (Raw, Vec<String>) {
    let mut raw = Raw::default();
    let mut weaker = Raw::default();
    let mut unknown = Vec::new();
    for (line, content) in logical_lines(text) {
        match assignment(&content) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                let origin = Origin::EnvFile { path: path.to_owned(), line, name: name.clone() };
                let mut options = OPTIONS.iter().filter(|opt| opt.key != Key::EnvFile);
                let known = options.find(|opt| opt.istio == Some(name.as_str()) || opt.variable() == name);
                let weak = WEAKER.iter().find(|(of, _)| *of == name);
                match (known, weak) {
                    (Some(opt), _) => raw.set(opt.key, value, origin),
                    (None, Some((_, key))) => weaker.set(*key, value, origin),
                    (None, None) if name == MISSPELT.0 => {
                        let (problem, right) = ("is a name that nothing has ever read", MISSPELT.1);
                        faults.source(origin, problem, format!("write {right}"));
                    }
                    (None, None) => unknown.push(name),
                }
            }
            Err(problem) => {
                let origin = Origin::EnvFile { path: path.to_owned(), line, name: String::new() };
                faults.source(origin, problem, "write NAME=value, NAME='value' or a # comment");
            }
        }
    }
    unknown.sort();
    unknown.dedup();
    (raw.or(weaker), unknown)
}

/// The file's lines, each with the number of its first one: an open quote spans lines, a backslash joins them, and
/// comments are gone. One pass, however long a quote stays open.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut content = String::new();
    let (mut start, mut number) = (1, 1);
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '#') if content.is_empty() || content.ends_with([' ', '\t']) => {
                while chars.next_if(|c| *c != '\n').is_some() {}
            }
            (None | Some('"'), '\\') => match chars.next() {
                Some('\n') => number += 1,
                escaped => {
                    content.push(c);
                    content.extend(escaped);
                }
            },
            (None, '\n') => {
                number += 1;
                lines.push((start, std::mem::take(&mut content)));
                start = number;
            }
            (open, c) => {
                number += usize::from(c == '\n');
                quote = match (open, c) {
                    (None, '\'' | '"') => Some(c),
                    (Some(open), c) if open == c => None,
                    (open, _) => open,
                };
                content.push(c);
            }
        }
    }
    lines.push((start, content));
    lines
}

/// One line: nothing, or a name and its value.
fn assignment(line: &str) -> Result<Option<(String, String)>, String> {
    let line = line.trim_matches([' ', '\t', '\r']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        Some(_) | None => line,
    };
    let Some((name, rest)) = line.split_once('=') else {
        return Err("is not an assignment".into());
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err("is not an assignment: a name has letters, digits and _".into());
    }
    word(rest).map(|value| Some((name.to_owned(), value)))
}

/// The value after `=`: one shell word, then nothing but a comment.
fn word(text: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => single_quoted(&mut chars, &mut value)?,
            '"' => double_quoted(&mut chars, &mut value)?,
            '\\' => value.extend(chars.next()),
            '$' | '`' => return Err(needs_a_shell(c)),
            ';' | '&' | '|' | '<' | '>' | '(' | ')' => return Err(needs_a_shell(c)),
            c if c.is_whitespace() => {
                let rest: String = chars.collect();
                let rest = rest.trim_start();
                if rest.is_empty() || rest.starts_with('#') {
                    return Ok(value);
                }
                return Err("has more than one word after =: quote the value".into());
            }
            c => value.push(c),
        }
    }
    Ok(value)
}

fn single_quoted(chars: &mut Peekable<Chars<'_>>, value: &mut String) -> Result<(), String> {
    for c in chars.by_ref() {
        if c == '\'' {
            return Ok(());
        }
        value.push(c);
    }
    Err("has a single quote without an end".into())
}

fn double_quoted(chars: &mut Peekable<Chars<'_>>, value: &mut String) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '$' | '`' => return Err(needs_a_shell(c)),
            '\\' => match chars.peek() {
                Some('$' | '`' | '"' | '\\') => value.extend(chars.next()),
                Some(_) | None => value.push('\\'),
            },
            c => value.push(c),
        }
    }
    Err("has a double quote without an end".into())
}

fn needs_a_shell(c: char) -> String {
    format!("has {c:?}, which only a shell could execute; nothing is executed here")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<(Raw, Vec<String>), Faults> {
        let mut faults = Faults::default();
        let parsed = parse("sidecar.env", text, &mut faults);
        faults.into_result(parsed)
    }

    fn value(text: &str) -> String {
        let (raw, _) = one(text).unwrap();
        raw.get(Key::OutboundCidr).unwrap()[0].text.clone()
    }

    #[test]
    fn quoting_is_a_shells() {
        assert_eq!(value("ISTIO_SERVICE_CIDR=10.63.240.0/20\n"), "10.63.240.0/20");
        assert_eq!(value("export ISTIO_SERVICE_CIDR='*'  # all"), "*");
        assert_eq!(value("ISTIO_SERVICE_CIDR=\"10.0.0.0/8\",'172.16.0.0/12'"), "10.0.0.0/8,172.16.0.0/12");
        assert_eq!(value("ISTIO_SERVICE_CIDR="), "");
        assert_eq!(value("ISTIO_SERVICE_CIDR=10.0.0.0/8,\\\n172.16.0.0/12"), "10.0.0.0/8,172.16.0.0/12");
        assert_eq!(value("ISTIO_SERVICE_CIDR='a\nb'"), "a\nb");
        assert_eq!(value("ISTIO_SERVICE_CIDR=\\*"), "*");
        assert_eq!(value("ISTIO_SERVICE_CIDR=a#b"), "a#b");
        assert_eq!(value("ISTIO_SERVICE_CIDR=\"a\\$b\""), "a$b");
        assert_eq!(value("ISTIO_SERVICE_CIDR=x\r\n"), "x");
    }

    #[test]
    fn a_later_line_wins_and_keeps_its_number() {
        let (raw, unknown) =
            one("# VM\nISTIO_SERVICE_CIDR=a\n\nMESH_INIT_OUTBOUND_CIDR=b\nISTIO_NAMESPACE=x\n").unwrap();
        let given = raw.get(Key::OutboundCidr).unwrap();
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].text, "b");
        assert_eq!(given[0].origin.to_string(), "sidecar.env:4 MESH_INIT_OUTBOUND_CIDR");
        assert_eq!(unknown, ["ISTIO_NAMESPACE"]);
    }

    #[test]
    fn istios_other_names_count_less_and_a_misspelt_one_is_told() {
        let (raw, unknown) = one("PROXY_UID=7\nENVOY_USER=envoy\nISTIO_META_DNS_CAPTURE='true'\nREDIRECT_DNS=false\nDROP_INVALID=true\n").unwrap();
        assert_eq!(raw.get(Key::ProxyUid).unwrap()[0].text, "7");
        assert_eq!(raw.get(Key::RedirectDns).unwrap()[0].text, "true");
        assert_eq!(raw.get(Key::DropInvalid).unwrap()[0].text, "true");
        assert!(unknown.is_empty());
        let faults = one("ISTIO_INBOUND_EXCLUDE_PORTS=22\n").unwrap_err();
        assert!(faults.to_string().contains("write ISTIO_LOCAL_EXCLUDE_PORTS"), "{faults}");
    }

    #[test]
    fn what_a_shell_would_execute_is_a_fault_and_all_are_told() {
        let text = "A=$(id)\nB=`id`\nC=1; rm -rf /\nD='x\"\nE=\"y\nF=one two\nnonsense\n1X=3\nG=$HOME\n";
        let faults = one("A=$(id)\nB=`id`\nC=1;id\nF=one two\nnonsense\n1X=3\nG=\"$HOME\"\n").unwrap_err();
        assert_eq!(faults.list().len(), 7, "{faults}");
        assert!(one(text).is_err());
    }
}
