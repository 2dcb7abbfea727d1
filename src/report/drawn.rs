//! Drawings of a connection's way: mermaid, Graphviz and SVG, all from the same boxes.

use std::fmt::Write;

use super::explained::{Explained, Explanation, Line};
use super::printable;

/// A form of drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For Markdown that renders it.
    Mermaid,
    /// Scalable Vector Graphics, as a file of its own.
    Svg,
    /// For Graphviz.
    Dot,
}

/// A station of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Station {
    lines: Vec<String>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Where it begins and ends.
    End,
    /// A base chain.
    Chain,
    /// A rule that is hit, or that cannot be told.
    Rule,
    /// What is passed by.
    Passed,
}

/// Columns of a box; longer lines are broken.
const WIDTH: usize = 64;

/// Draws the ways of all answers, one beside the other.
#[must_use]
pub fn draw(explained: &Explained, form: Form) -> String {
    let ways: Vec<Vec<Station>> = explained.answers.iter().map(stations).collect();
    match form {
        Form::Mermaid => mermaid(&ways),
        Form::Dot => dot(&ways),
        Form::Svg => svg(&ways),
    }
}

fn stations(explanation: &Explanation) -> Vec<Station> {
    let mut stations = vec![station(Kind::End, &[&explanation.conn])];
    let mut missed = 0;
    let tell_missed = |stations: &mut Vec<Station>, missed: &mut usize| {
        if *missed > 0 {
            let rules = if *missed == 1 {
                "1 rule does not match".to_owned()
            } else {
                format!("{missed} rules do not match")
            };
            stations.push(station(Kind::Passed, &[&rules]));
            *missed = 0;
        }
    };
    for line in &explanation.trail {
        if let Line::Rule { hit: Some(false), .. } = line {
            missed += 1;
            continue;
        }
        tell_missed(&mut stations, &mut missed);
        stations.push(match line {
            Line::Enter { chain, .. } => station(Kind::Chain, &[chain]),
            Line::NotCalled { chain, why } => station(Kind::Passed, &[&format!("{chain}: not asked"), why]),
            Line::Policy { chain, accepts } => {
                let does = if *accepts { "lets it through" } else { "drops it" };
                station(Kind::Passed, &[&format!("end of {chain}: {does}")])
            }
            Line::Way(way) => station(Kind::Chain, &[way]),
            Line::NoHook(why) => station(Kind::Passed, &["no BPF program", why]),
            Line::Hook { hook, found, clause } => {
                let name = clause.map(|clause| format!(": {clause}")).unwrap_or_default();
                let first = format!("{hook}{name}");
                let texts: Vec<&str> =
                    [first.as_str()].into_iter().chain(found.iter().map(String::as_str)).collect();
                let kind = if clause.is_some() { Kind::Rule } else { Kind::Passed };
                station(kind, &texts)
            }
            Line::Rule { chain, number, rule, clause, hit, .. } => {
                let name = clause.map(|clause| format!(": {clause}")).unwrap_or_default();
                let unclear = if hit.is_none() { " (cannot tell)" } else { "" };
                station(Kind::Rule, &[&format!("{chain} {number}{name}{unclear}"), rule])
            }
        });
    }
    tell_missed(&mut stations, &mut missed);
    stations.push(station(Kind::End, &[&explanation.verdict(), &explanation.reason()]));
    stations
}

fn station(kind: Kind, texts: &[&str]) -> Station {
    Station { lines: texts.iter().flat_map(|text| broken(&printable(text))).collect(), kind }
}

/// `text` in lines of at most [`WIDTH`] columns, broken at blanks; a word that is longer is broken anywhere.
fn broken(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split(' ') {
        let wide: usize = word.chars().map(columns).sum();
        if used > 0 && used + 1 + wide > WIDTH {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        for letter in word.chars() {
            if used + columns(letter) > WIDTH {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(letter);
            used += columns(letter);
        }
    }
    lines.push(line);
    lines
}

/// How much room a letter takes in a monospaced font, at most: Asian scripts and pictures take that of two.
fn columns(letter: char) -> usize {
    if letter < '\u{1100}' { 1 } else { 2 }
}

/// `text` with what `entity` names in the place of what a form would take for its own.
fn escaped(text: &str, entity: fn(char) -> Option<&'static str>) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match entity(letter) {
            Some(entity) => escaped.push_str(entity),
            None => escaped.push(letter),
        }
    }
    escaped
}

/// Entities as mermaid takes them (mermaid.js.org/syntax/flowchart.html, "Entity codes to escape characters"): a quote
/// would end the label, `#` begins an entity, a backtick makes it Markdown, `\n` is a line's end, and the rest is HTML.
fn mermaid_entity(letter: char) -> Option<&'static str> {
    Some(match letter {
        '#' => "#35;",
        '"' => "#quot;",
        '&' => "#amp;",
        '<' => "#lt;",
        '>' => "#gt;",
        '`' => "#96;",
        '\\' => "#92;",
        _ => return None,
    })
}

/// graphviz.org/doc/info/lang.html and escString: HTML's entities are read in any label.
fn dot_entity(letter: char) -> Option<&'static str> {
    Some(match letter {
        '\\' => "\\\\",
        '"' => "\\\"",
        '&' => "&amp;",
        _ => return None,
    })
}

/// XML 1.0, section 2.4.
fn xml_entity(letter: char) -> Option<&'static str> {
    Some(match letter {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => "&quot;",
        _ => return None,
    })
}

fn mermaid(ways: &[Vec<Station>]) -> String {
    let escape = |text: &str| escaped(text, mermaid_entity);
    let mut text = "flowchart TD\n".to_owned();
    for (way, stations) in ways.iter().enumerate() {
        for (index, station) in stations.iter().enumerate() {
            let label = station.lines.iter().map(|line| escape(line)).collect::<Vec<_>>().join("<br>");
            let (open, close) = match station.kind {
                Kind::End => ("([", "])"),
                Kind::Chain => ("[", "]"),
                Kind::Rule => ("{{", "}}"),
                Kind::Passed => ("(", ")"),
            };
            writeln!(text, "  w{way}s{index}{open}\"{label}\"{close}").ok();
            if index > 0 {
                writeln!(text, "  w{way}s{} --> w{way}s{index}", index - 1).ok();
            }
        }
    }
    text
}

fn dot(ways: &[Vec<Station>]) -> String {
    let escape = |text: &str| escaped(text, dot_entity);
    let mut text = "digraph way {\n  node [fontname=\"monospace\", fontsize=10];\n".to_owned();
    for (way, stations) in ways.iter().enumerate() {
        for (index, station) in stations.iter().enumerate() {
            let label = station.lines.iter().map(|line| escape(line)).collect::<Vec<_>>().join("\\n");
            let shape = match station.kind {
                Kind::End => "oval",
                Kind::Chain => "box",
                Kind::Rule => "hexagon",
                Kind::Passed => "plaintext",
            };
            writeln!(text, "  w{way}s{index} [shape={shape}, label=\"{label}\"];").ok();
            if index > 0 {
                writeln!(text, "  w{way}s{} -> w{way}s{index};", index - 1).ok();
            }
        }
    }
    text + "}\n"
}

/// Sizes in SVG's user units, by a monospaced letter.
const LETTER: usize = 8;
const LEADING: usize = 18;
const GAP: usize = 26;
const MARGIN: usize = 20;

fn svg(ways: &[Vec<Station>]) -> String {
    let column = WIDTH * LETTER + 2 * MARGIN;
    let height_of = |station: &Station| station.lines.len() * LEADING + 12;
    let height =
        ways.iter().map(|way| way.iter().map(|station| height_of(station) + GAP).sum::<usize>()).max();
    let (width, height) =
        ((column + MARGIN) * ways.len().max(1) + MARGIN, height.unwrap_or_default() + 2 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"13\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#444\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (way, stations) in ways.iter().enumerate() {
        let left = MARGIN + way * (column + MARGIN);
        let middle = left + column / 2;
        let mut top = MARGIN;
        for (index, station) in stations.iter().enumerate() {
            let tall = height_of(station);
            let (fill, stroke, round) = match station.kind {
                Kind::End => ("#dbeafe", "#1d4ed8", 14),
                Kind::Chain => ("#f3f4f6", "#374151", 0),
                Kind::Rule => ("#fef3c7", "#b45309", 4),
                Kind::Passed => ("#fff", "#6b7280", 4),
            };
            writeln!(
                text,
                "<rect x=\"{left}\" y=\"{top}\" width=\"{column}\" height=\"{tall}\" rx=\"{round}\" fill=\"{fill}\" stroke=\"{stroke}\"/>"
            )
            .ok();
            for (line, words) in station.lines.iter().enumerate() {
                let base = top + 6 + LEADING * line + 14;
                writeln!(
                    text,
                    "<text x=\"{middle}\" y=\"{base}\" text-anchor=\"middle\">{}</text>",
                    escaped(words, xml_entity)
                )
                .ok();
            }
            if index + 1 < stations.len() {
                let (from, to) = (top + tall, top + tall + GAP);
                writeln!(
                    text,
                    "<line x1=\"{middle}\" y1=\"{from}\" x2=\"{middle}\" y2=\"{to}\" stroke=\"#444\" marker-end=\"url(#tip)\"/>"
                )
                .ok();
            }
            top += tall + GAP;
        }
    }
    text + "</svg>\n"
}
