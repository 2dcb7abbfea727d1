//! JSON with the place of every value, so that a text can be changed in one place and nowhere else.
//!
//! As strict as `serde_json` (`fuzz` and the property tests hold the two together), which is stricter than Go's
//! `encoding/json` where that repairs (lone surrogates, bytes that are no UTF-8): what the two could read
//! differently is not edited.

use std::fmt;
use std::ops::Range;

/// As many levels as `serde_json` follows.
const DEPTH: usize = 127;

/// A value and its place in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// From its first byte to behind its last.
    pub span: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Members in their order; a key may stand twice.
    Object(Vec<Member>),
    /// Items in their order.
    Array(Vec<Value>),
    /// A string, its escapes resolved.
    Text(String),
    /// A number, `true`, `false` or `null`: its text says which.
    Plain,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Resolved.
    pub key: String,
    /// Where the key stands, with its quotes.
    pub key_span: Range<usize>,
    /// What it has.
    pub value: Value,
}

/// Why a text is no JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// In bytes, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub why: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}: {}", self.line, self.column, self.why)
    }
}

impl Value {
    /// The member of that key; the last if it stands more than once, as Go's maps and `serde_json`'s have it.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<&Value> {
        self.members().iter().rev().find(|member| member.key == key).map(|member| &member.value)
    }

    /// The members, none if it is no object.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        match &self.kind {
            Kind::Object(members) => members,
            Kind::Array(_) | Kind::Text(_) | Kind::Plain => &[],
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Object(_) | Kind::Array(_) | Kind::Plain => None,
        }
    }
}

/// Reads a whole text.
///
/// # Errors
/// It is no JSON.
pub fn scan(text: &str) -> Result<Value, Malformed> {
    let mut scanner = Scanner { text, at: 0 };
    let read = scanner.document();
    read.map_err(|why| {
        let read = text.as_bytes().get(..scanner.at).unwrap_or_default();
        let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = read.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Malformed { line, column, why: why.to_owned() }
    })
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<Value, &'static str> {
        if self.text.starts_with('\u{feff}') {
            return Err("a byte order mark, which no CNI runtime reads");
        }
        self.space();
        let value = self.value(0)?;
        self.space();
        match self.peek() {
            None => Ok(value),
            Some(_) => Err("something follows the value"),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn taken(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn value(&mut self, depth: usize) -> Result<Value, &'static str> {
        let start = self.at;
        let kind = match self.peek() {
            None => return Err("the text ends where a value is expected"),
            Some(b'{' | b'[') if depth == DEPTH => return Err("more than 127 levels"),
            Some(b'{') => Kind::Object(self.members(depth)?),
            Some(b'[') => Kind::Array(self.items(depth)?),
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => self.word()?,
        };
        Ok(Value { span: start..self.at, kind })
    }

    fn members(&mut self, depth: usize) -> Result<Vec<Member>, &'static str> {
        self.at += 1;
        self.space();
        let mut members = Vec::new();
        if self.taken(b'}') {
            return Ok(members);
        }
        loop {
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err("a key in quotes is expected");
            }
            let key = self.string()?;
            let key_span = start..self.at;
            self.space();
            if !self.taken(b':') {
                return Err("a colon is expected behind the key");
            }
            self.space();
            let value = self.value(depth + 1)?;
            members.push(Member { key, key_span, value });
            self.space();
            if self.taken(b'}') {
                return Ok(members);
            }
            if !self.taken(b',') {
                return Err("a comma or the end of the object is expected");
            }
            self.space();
        }
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Value>, &'static str> {
        self.at += 1;
        self.space();
        let mut items = Vec::new();
        if self.taken(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.taken(b']') {
                return Ok(items);
            }
            if !self.taken(b',') {
                return Err("a comma or the end of the list is expected");
            }
            self.space();
        }
    }

    /// Finds a string's end; what is inside is judged by `serde_json`.
    fn string(&mut self) -> Result<String, &'static str> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                None => return Err("a string has no end"),
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let token = self.text.get(start..=end).ok_or("a string has no end")?;
        let text = serde_json::from_str(token)
            .map_err(|_| "a string with a control character or a wrong escape in it")?;
        self.at = end + 1;
        Ok(text)
    }

    fn number(&mut self) -> Result<Kind, &'static str> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let of_number = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let token = rest.split(|c| !of_number(c)).next().unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(token)
            .map_err(|_| "a number that is none, or larger than a double")?;
        self.at += token.len();
        Ok(Kind::Plain)
    }

    fn word(&mut self) -> Result<Kind, &'static str> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word));
        self.at += word.ok_or("a value is expected")?.len();
        Ok(Kind::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_what_serde_json_takes() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let mut texts: Vec<String> = [
            "",
            " ",
            "{}",
            "[]",
            " {\"a\" : [1 , -0.5e+3,true,null] }\r\n",
            "[1,]",
            "{\"a\":1,}",
            "[,1]",
            "{\"a\" 1}",
            "{a:1}",
            "[01]",
            "[-]",
            "[1.]",
            "[.5]",
            "[1e]",
            "[1e999]",
            "[1e308]",
            "[1.7976931348623159e308]",
            "[+1]",
            "[1 2]",
            "nul",
            "nullx",
            "truefalse",
            "\"\\ud800\"",
            "\"\\ud83d\\ude00\"",
            "\"\\u12\"",
            "\"\t\"",
            "\"\\x\"",
            "\"\u{7f}é\"",
            "\"abc",
            "\"abc\\",
            "\"\\\"",
            "{} x",
            "\u{feff}{}",
            "[1]]",
            "[",
            "{\"a\":",
            "{\"a\"",
            "{\"",
            "\u{b}[]",
            "[\u{a0}]",
            "-",
            "--1",
            "1-1",
            "1e5",
            "[1e5e5]",
            "{\"a\":1,\"a\":2}",
            "//x\n{}",
            "[nan]",
            "'a'",
        ]
        .iter()
        .map(ToString::to_string)
        .collect();
        texts.extend((126..130).map(deep));
        for text in &texts {
            let known = serde_json::from_str::<serde_json::Value>(text);
            assert_eq!(scan(text).is_ok(), known.is_ok(), "{text:?}: {:?}, {known:?}", scan(text));
        }
        assert!(texts.iter().any(|text| scan(text).is_ok()) && texts.iter().any(|text| scan(text).is_err()));
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = " {\"é\" : [ {}, \"x\\n\" ]} ";
        let value = scan(text).unwrap();
        assert_eq!(&text[value.span.clone()], text.trim());
        let [member] = value.members() else { panic!("{value:?}") };
        assert_eq!((member.key.as_str(), &text[member.key_span.clone()]), ("é", "\"é\""));
        let Kind::Array(items) = &member.value.kind else { panic!("{value:?}") };
        let items: Vec<&str> = items.iter().map(|item| &text[item.span.clone()]).collect();
        assert_eq!(items, ["{}", "\"x\\n\""]);
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        for (text, told) in [
            ("{\n  \"plugins\": [\n    {},\n  ]\n}", "line 4 column 3: a value is expected"),
            ("{\"a\":1,}", "line 1 column 8: a key in quotes is expected"),
            ("\u{feff}{}", "line 1 column 1: a byte order mark, which no CNI runtime reads"),
        ] {
            assert_eq!(scan(text).unwrap_err().to_string(), told);
        }
    }
}
