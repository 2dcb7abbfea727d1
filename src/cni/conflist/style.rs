//! How our object is written: like the neighbour beside which it comes to stand.

use serde_json::{Map, Value};

use super::scan::{self, Kind};

/// A way of writing objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Style {
    /// Objects over several lines: what stands before a member, and what before the closing brace.
    lines: Option<Lines>,
    /// What stands behind a brace in one line.
    pad: &'static str,
    /// What stands behind a colon and, in one line, behind a comma.
    space: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lines {
    member: String,
    close: String,
    /// What a deeper level adds.
    step: String,
}

/// The style of an object that stands in `text`.
pub(super) fn of(text: &str, object: &scan::Value) -> Style {
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let (Kind::Object(members), span) = (&object.kind, &object.span) else { return spaced() };
    let (Some(first), Some(last)) = (members.first(), members.last()) else { return spaced() };
    let open = part(span.start + 1..first.key_span.start);
    let close = part(last.value.span.end..span.end - 1);
    let colon = part(first.key_span.end..first.value.span.start);
    let lines = line_break(open).map(|member| {
        let close = line_break(close).unwrap_or_else(|| line_break_of(open).to_owned());
        let indent = |text: &str| text.trim_start_matches(['\r', '\n']).to_owned();
        let (inner, outer) = (indent(&member), indent(&close));
        let step = inner.strip_prefix(&outer).filter(|step| !step.is_empty()).unwrap_or("  ").to_owned();
        Lines { member, close, step }
    });
    Style {
        lines,
        pad: if open.starts_with(' ') { " " } else { "" },
        space: if colon.ends_with(char::is_whitespace) { " " } else { "" },
    }
}

/// One line, a space behind colons and commas.
fn spaced() -> Style {
    Style { lines: None, pad: "", space: " " }
}

/// Two spaces a level, beginning at the margin.
pub(super) fn plain() -> Style {
    let lines = Lines { member: "\n  ".to_owned(), close: "\n".to_owned(), step: "  ".to_owned() };
    Style { lines: Some(lines), ..spaced() }
}

/// The last line break of some white space, with what follows it.
fn line_break(space: &str) -> Option<String> {
    let at = space.rfind('\n')?;
    let indent = space.get(at + 1..).unwrap_or_default();
    Some(format!("{}{indent}", line_break_of(space)))
}

/// The line break that some white space uses.
fn line_break_of(space: &str) -> &'static str {
    if space.contains("\r\n") { "\r\n" } else { "\n" }
}

impl Style {
    /// What stands between two objects of a list that does not say it itself.
    pub(super) fn gap(&self) -> &'static str {
        self.space
    }

    /// Writes an object.
    pub(super) fn write(&self, object: &Map<String, Value>) -> String {
        let mut out = String::new();
        self.object(object, self.lines.as_ref(), &mut out);
        out
    }

    fn object(&self, object: &Map<String, Value>, lines: Option<&Lines>, out: &mut String) {
        let inner = lines.map(|lines| Lines {
            member: format!("{}{}", lines.member, lines.step),
            close: lines.member.clone(),
            step: lines.step.clone(),
        });
        out.push('{');
        for (n, (key, value)) in object.iter().enumerate() {
            match (n, lines) {
                (0, None) => out.push_str(self.pad),
                (0, Some(_)) => (),
                (_, None) => {
                    out.push(',');
                    out.push_str(self.space);
                }
                (_, Some(_)) => out.push(','),
            }
            out.push_str(lines.map_or("", |lines| lines.member.as_str()));
            out.push_str(&Value::from(key.as_str()).to_string());
            out.push(':');
            out.push_str(self.space);
            self.value(value, inner.as_ref(), out);
        }
        if !object.is_empty() {
            out.push_str(lines.map_or(self.pad, |lines| lines.close.as_str()));
        }
        out.push('}');
    }

    /// Lists stand in one line: those of a configuration are short.
    fn value(&self, value: &Value, lines: Option<&Lines>, out: &mut String) {
        match value {
            Value::Object(object) => self.object(object, lines, out),
            Value::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                        out.push_str(self.space);
                    }
                    self.value(item, None, out);
                }
                out.push(']');
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                out.push_str(&value.to_string());
            }
        }
    }
}
