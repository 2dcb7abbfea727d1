//! A single plugin in a list of ours: the file beside it that a runtime comes to before it.
//!
//! A `.conf` has room for one plugin. It stays as it is, for its owner may write it again at any time; beside it comes a
//! `.conflist` with the same network, version and plugin, which sorts directly before it and so is taken in its
//! place.

use super::edit::{self, Entry};
use super::load::{self, Single};
use super::scan::scan;
use super::{Folder, choose};

/// What every name of ours ends in, and no other's does.
const ENDING: &str = "mesh-init.conflist";

/// Whether a file has a name that only we give.
#[must_use]
pub fn is_ours(file: &str) -> bool {
    file.ends_with(ENDING)
}

/// A name that sorts before `file`, and behind what is before it: no other file changes its place in the runtime's
/// choice. A hyphen sorts before the dot and before every letter, so the stem and a hyphen come first
/// (`10-kindnet-mesh-init.conflist` before `10-kindnet.conf`); where another file lies between, the whole name but
/// its last letter is taken, and then also the letter before that one.
#[must_use]
pub fn name(folder: &Folder, file: &str) -> Option<String> {
    let before = folder.configurations().map(|(name, _)| name).rfind(|name| *name < file);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let but_one = file.get(..file.len() - 1).unwrap_or_default();
    let last = file.as_bytes().last().copied().unwrap_or_default();
    let candidates = [
        format!("{stem}-{ENDING}"),
        format!("{but_one}-{ENDING}"),
        format!("{but_one}{}~{ENDING}", char::from(last.saturating_sub(1))),
    ];
    candidates
        .into_iter()
        .find(|name| name.as_str() < file && before.is_none_or(|before| name.as_str() > before))
}

/// The list around a single plugin, without ours: the plugin's text is copied, only its lines are moved in.
#[must_use]
pub fn around(text: &str) -> Option<String> {
    let root = scan(text).ok()?;
    let part = |key: &str| load::field(&root, key).and_then(|value| text.get(value.span.clone()));
    let (name, version) = (part("name")?, part("cniVersion")?);
    // A string has no line break in it, so each one is white space.
    let plugin = text.get(root.span.clone())?.replace('\n', "\n    ");
    Some(format!(
        "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"plugins\": [\n    {plugin}\n  ]\n}}\n"
    ))
}

/// What is known of a file with a name of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is as we make it; the original may have been changed since.
    Ours {
        /// The single plugin's file behind it, with the same network; `None` if its owner took it away.
        original: Option<String>,
    },
    /// Somebody has made a chain of their own of it.
    Extended,
}

/// Looks at a file whose name is ours.
#[must_use]
pub fn known(folder: &Folder, file: &str) -> Known {
    let Some(Ok(text)) = folder.files.get(file) else { return Known::Extended };
    let (Ok(list), Ok(root)) = (load::list(text), scan(text)) else { return Known::Extended };
    let foreign = list.items().iter().filter(|plugin| !plugin.is_ours()).count();
    let keys =
        root.members().iter().all(|member| matches!(member.key.as_str(), "cniVersion" | "name" | "plugins"));
    if foreign != 1 || !keys {
        return Known::Extended;
    }
    let next = folder.configurations().map(|(name, _)| name).find(|name| *name > file);
    let of_it = |name: &&str| {
        let choice = choose::load(folder, name);
        choice.is_ok_and(
            |choice| matches!(&choice.form, choose::Form::Single(single) if single.name == list.name),
        )
    };
    Known::Ours { original: next.filter(of_it).map(ToOwned::to_owned) }
}

/// The list around a single plugin, with ours.
///
/// # Errors
/// Why there can be none.
pub fn text(single: &Single, text: &str, entry: &Entry) -> Result<String, String> {
    if single.name.is_empty() {
        return Err("has no name, which a list needs".to_owned());
    }
    let around = around(text).ok_or("has no cniVersion, without which no chain works")?;
    edit::with(&around, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> Folder {
        let files = files.iter().map(|name| ((*name).to_owned(), Ok(String::new())));
        Folder { files: files.collect(), ..Folder::default() }
    }

    #[test]
    fn the_name_sorts_directly_before() {
        for (files, of, expected) in [
            (&["10-a.conf"][..], "10-a.conf", "10-a-mesh-init.conflist"),
            (&["05-z.conf", "10-a.json", "20.conf"], "10-a.json", "10-a-mesh-init.conflist"),
            (&["10-a-x.conf", "10-a.conf"], "10-a.conf", "10-a.con-mesh-init.conflist"),
            (&["10-a.cona.conf", "10-a.conf"], "10-a.conf", "10-a.cone~mesh-init.conflist"),
            // What is no configuration is in nobody's way.
            (&["10-a.con", "10-a-z.txt", "10-a.conf"], "10-a.conf", "10-a-mesh-init.conflist"),
        ] {
            let folder = folder(files);
            let name = name(&folder, of).unwrap();
            assert_eq!(name, expected);
            let mut all: Vec<&str> = folder.configurations().map(|(name, _)| name).collect();
            let at = all.iter().position(|file| *file == of).unwrap();
            all.push(&name);
            all.sort_unstable();
            assert_eq!(all[at..=at + 1], [&name, of], "{all:?}");
        }
        assert_eq!(name(&folder(&["10-a.cone~z.conf", "10-a.conf"]), "10-a.conf"), None);
    }

    #[test]
    fn the_plugin_is_copied() {
        let conf = "{\n\t\"cniVersion\": \"0.3.1\",\n\t\"name\": \"kindnet\",\n\t\"type\": \"ptp\"\n}\n";
        let around = around(conf).unwrap();
        assert_eq!(
            around,
            "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"kindnet\",\n  \"plugins\": [\n    {\n    \t\"cniVersion\": \"0.3.1\",\n    \t\"name\": \"kindnet\",\n    \t\"type\": \"ptp\"\n    }\n  ]\n}\n"
        );
        let entry: Entry = serde_json::from_str(r#"{"type":"mesh-init"}"#).unwrap();
        let single = load::single(conf).unwrap();
        let whole = text(&single, conf, &entry).unwrap();
        assert_eq!(edit::without(&whole).unwrap(), Some(around));
        assert!(whole.contains("    },\n    {\n    \t\"type\": \"mesh-init\"\n    }\n  ]"), "{whole}");
        for (conf, why) in [
            (r#"{"name":"n","type":"ptp"}"#, "has no cniVersion, without which no chain works"),
            (r#"{"cniVersion":"1.0.0","type":"ptp"}"#, "has no name, which a list needs"),
        ] {
            assert_eq!(text(&load::single(conf).unwrap(), conf, &entry).unwrap_err(), why);
        }
    }
}
