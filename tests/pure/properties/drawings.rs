//! Drawings of random ways, with whatever others may have written into their rules: each is of its form, and holds
//! every word of it.

use mesh_init::eval::evaluate;
use mesh_init::eval::typical::typical;
use mesh_init::policy::Families;
use mesh_init::policy::settings::Variant;
use mesh_init::report::{Explained, Explanation, Form, Report, draw};
use mesh_init::rules::compile::compile_for;
use mesh_init::rules::{Match, Place, Rule, RuleSet, Seen, Test, Verdict};
use proptest::prelude::*;
use proptest::sample::Index;
use roxmltree::{Document, Node};

use super::{cases, given};

/// What a comment of anybody's may hold: each form's own signs, what XML and terminals do not take, and long words.
fn hostile() -> impl Strategy<Value = String> {
    let words = prop_oneof![
        Just("<&\"'>]]>--><br>".to_owned()),
        Just("#quot;#35;&amp;&lt;&#0;`x`\"]".to_owned()),
        Just("\\n\\\\\\\"\\N\\G\\".to_owned()),
        Just("\u{0}\u{1}\u{8}\u{b}\u{1b}[31m\u{7f}\u{85}\u{9b}\r\n\t".to_owned()),
        Just("\u{fffe}\u{ffff}\u{202e}\u{200b}\u{feff}\u{e000}".to_owned()),
        Just("\u{dc}\u{df}\u{301}\u{4e2d}\u{6587}\u{1f600}".to_owned()),
        Just("\u{4e2d}".repeat(100)),
        (1..400_usize).prop_map(|length| "x".repeat(length)),
        Just(" ".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(words, 0..4).prop_map(|words| words.join(" "))
}

/// Rules of somebody else in front of each chain: one that may be hit, one that changes nothing, and one that is hit.
fn beside(rules: &mut RuleSet, text: &str) {
    let rule = |matches: Vec<Match>, verdict: Verdict| Rule {
        id: None,
        matches,
        verdict,
        comment: Some(text.to_owned()),
        place: Place::Last,
        seen: Some(Seen { spec: format!("-m comment --comment {text}"), packets: 0, bytes: 0 }),
    };
    let opaque = || vec![Match::is(Test::Opaque(text.to_owned()))];
    for chain in &mut rules.chains {
        let theirs = [
            rule(opaque(), Verdict::Continue),
            rule(vec![], Verdict::Continue),
            rule(opaque(), Verdict::Accept),
        ];
        chain.rules.splice(0..0, theirs);
    }
}

fn explained(args: &[String], text: &str, ask: &[Index]) -> Explained {
    let request = given::request(args);
    let mut rules = compile_for(&request.policy, request.layout, Families::Both, Variant::Nft);
    beside(&mut rules, text);
    let kinds = typical(&request.policy, Families::Both);
    let explain = |index: &Index| {
        let conn = &index.get(&kinds).conn;
        Explanation::of(conn, &evaluate(&[&rules], conn), |_| Some(text.to_owned()))
    };
    Explained { answers: ask.iter().map(explain).collect(), notes: vec![text.to_owned()] }
}

/// The sizes of an SVG element.
fn size(node: Node<'_, '_>, name: &str) -> i64 {
    let text = node.attribute(name).unwrap_or_else(|| panic!("{name} of {node:?}"));
    text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}"))
}

/// Parsed by somebody else's parser; boxes stand apart and in the picture, and each line of text in a box.
fn svg(text: &str) -> Vec<String> {
    let document = Document::parse(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let root = document.root_element();
    assert_eq!(
        (root.tag_name().name(), root.tag_name().namespace()),
        ("svg", Some("http://www.w3.org/2000/svg"))
    );
    let known = ["svg", "defs", "marker", "path", "rect", "text", "line"];
    let strange =
        root.descendants().filter(Node::is_element).find(|node| !known.contains(&node.tag_name().name()));
    assert_eq!(strange, None, "{text}");
    let named = |name: &'static str| {
        root.children().filter(move |node| node.has_tag_name(("http://www.w3.org/2000/svg", name)))
    };
    let (width, height) = (size(root, "width"), size(root, "height"));
    let boxes: Vec<[i64; 4]> = named("rect")
        .skip(1) // the background
        .map(|rect| {
            let [x, y, wide, tall] = ["x", "y", "width", "height"].map(|name| size(rect, name));
            [x, y, x + wide, y + tall]
        })
        .collect();
    for (index, [left, top, right, bottom]) in boxes.iter().enumerate() {
        assert!(*left >= 0 && *top >= 0 && *right <= width && *bottom <= height, "box {index} of {text}");
        let apart = |[l, t, r, b]: &[i64; 4]| r < left || right < l || b < top || bottom < t;
        assert!(boxes[..index].iter().all(apart), "box {index} overlaps in {text}");
    }
    let mut lines = Vec::new();
    for line in named("text") {
        let words = line.text().unwrap_or_default();
        // At most 8 units a column, two columns a wide letter.
        let columns: i64 = words.chars().map(|letter| if letter < '\u{1100}' { 1 } else { 2 }).sum();
        let (middle, base) = (size(line, "x"), size(line, "y"));
        let (left, right) = (middle - columns * 4, middle + columns * 4);
        let holds = |[l, t, r, b]: &&[i64; 4]| *l <= left && right <= *r && *t <= base - 14 && base < *b;
        assert!(boxes.iter().any(|of| holds(&of)), "{words:?} stands in no box of {text}");
        lines.push(words.to_owned());
    }
    lines
}

/// The labels of a text whose lines each hold at most one, in quotes; nothing of them may end it before its end.
fn labels(text: &str, before: &[&str], after: &[&str]) -> Vec<String> {
    let mut labels = Vec::new();
    for line in text.lines().filter(|line| line.contains('"') && !line.contains("node [")) {
        let begin = line.find('"').expect("a quote");
        let end = line.rfind('"').expect("a quote");
        let (head, label, tail) = (&line[..begin], &line[begin + 1..end], &line[end + 1..]);
        assert!(before.iter().any(|of| head.ends_with(of)) && after.contains(&tail), "{line}");
        labels.push(label.to_owned());
    }
    labels
}

/// The text of a label; `None` for what is no text of the form.
fn unescaped(
    label: &str,
    begin: char,
    entities: &[(&str, &str)],
    line: &str,
    forbidden: &[char],
) -> Option<Vec<String>> {
    label
        .split(line)
        .map(|part| {
            let (mut text, mut rest) = (String::new(), part);
            while let Some(letter) = rest.chars().next() {
                let entity = entities.iter().find(|(name, _)| rest.starts_with(name));
                let taken = match entity {
                    Some((name, meant)) => {
                        text.push_str(meant);
                        name.len()
                    }
                    None if letter == begin || forbidden.contains(&letter) || letter.is_control() => {
                        return None;
                    }
                    None => {
                        text.push(letter);
                        letter.len_utf8()
                    }
                };
                rest = &rest[taken..];
            }
            Some(text)
        })
        .collect()
}

fn mermaid(text: &str) -> Vec<String> {
    const ENTITIES: &[(&str, &str)] = &[
        ("#35;", "#"),
        ("#quot;", "\""),
        ("#amp;", "&"),
        ("#lt;", "<"),
        ("#gt;", ">"),
        ("#96;", "`"),
        ("#92;", "\\"),
    ];
    assert!(text.starts_with("flowchart TD\n"), "{text}");
    let labels = labels(text, &["([", "[", "{{", "("], &["])", "]", "}}", ")"]);
    let lines = labels.iter().flat_map(|label| {
        let read = unescaped(label, '#', ENTITIES, "<br>", &['"', '<', '>', '&', '`', '\\']);
        read.unwrap_or_else(|| panic!("{label:?} in {text}"))
    });
    lines.collect()
}

fn dot(text: &str) -> Vec<String> {
    assert!(text.starts_with("digraph way {\n") && text.ends_with("}\n"), "{text}");
    let labels = labels(text, &[", label="], &["];"]);
    let lines = labels.iter().flat_map(|label| {
        // A line's end is a backslash with an n that is not escaped itself.
        let kept = label.replace("\\\\", "\u{1}");
        let read = unescaped(
            &kept.replace('\u{1}', "&backslash;"),
            '\\',
            &[("&backslash;", "\\"), ("\\\"", "\""), ("&amp;", "&")],
            "\\n",
            &['"', '&'],
        );
        read.unwrap_or_else(|| panic!("{label:?} in {text}"))
    });
    lines.collect()
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn a_drawing_is_of_its_form_whatever_it_holds(
        (_, args) in given::every(),
        text in hostile(),
        ask in prop::collection::vec(any::<Index>(), 1..4),
    ) {
        let explained = explained(&args, &text, &ask);
        let drawn = svg(&draw(&explained, Form::Svg));
        prop_assert_eq!(&mermaid(&draw(&explained, Form::Mermaid)), &drawn, "mermaid beside SVG");
        prop_assert_eq!(&dot(&draw(&explained, Form::Dot)), &drawn, "dot beside SVG");
        // Every word is there, unless it had to be broken.
        let all = drawn.join(" ");
        for answer in &explained.answers {
            for word in [&answer.conn, &answer.verdict()].into_iter().flat_map(|text| text.split(' ')) {
                prop_assert!(all.contains(word) || word.len() > 64, "{} in {}", word, all);
            }
        }
        let letters = |text: &str| text.replace(|letter: char| !letter.is_ascii_alphanumeric(), "");
        let (all, json) = (letters(&all), explained.json());
        let steps = json["answers"].as_array().into_iter().flatten().filter_map(|answer| answer["trail"].as_array());
        for step in steps.flatten().filter(|step| step["step"] == "rule" && step["hit"] != false) {
            let rule = step["rule"].as_str().unwrap_or_default();
            for word in rule.split(' ').filter(|word| word.chars().all(|letter| letter.is_ascii_graphic())) {
                prop_assert!(all.contains(&letters(word)), "{} in {}", word, all);
            }
        }
        // As text for a terminal no sign of it moves the cursor or begins a line.
        let told = explained.text();
        prop_assert!(!told.chars().any(|letter| letter.is_control() && letter != '\n'), "{:?}", told);
    }
}
