//! Leaving every chain: what is to be changed so that no file names us.

use super::{Change, DROP_IN, Folder, NOWHERE, TYPE, edit, load, wrap};
use crate::input::fault::plain;

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// The changes; none if no file names us.
    pub changes: Vec<Change>,
    /// Files that may name us and cannot be changed, each with its reason: the program must stay.
    pub blocked: Vec<String>,
}

/// What is to be changed in `folder`. Files that Cilium set aside count: it brings them back when it goes.
#[must_use]
pub fn leave(folder: &Folder) -> Left {
    let mut left = Left::default();
    for (file, text) in &folder.files {
        let after = match text {
            Err(why) if why == NOWHERE => continue,
            Err(why) => Err(why.clone()),
            // A name with an escape in it is nobody's way to write it; libcni would take it all the same.
            Ok(text) if !text.contains(TYPE) && !text.contains("\\u") => continue,
            Ok(text) => without(folder, file, text),
        };
        left.note(file, text.as_ref().ok(), after);
    }
    for (file, text) in &folder.drop_ins {
        let after = match text {
            Err(why) if why == NOWHERE => continue,
            Err(why) => Err(why.clone()),
            Ok(_) if file.ends_with(&format!("/{DROP_IN}")) => Ok(None),
            Ok(text) => match load::single(text) {
                Ok(single) if single.plugin.is_ours() => {
                    Err("names mesh-init, and is no file that install makes".to_owned())
                }
                Ok(_) | Err(_) => continue,
            },
        };
        left.note(file, text.as_ref().ok(), after);
    }
    left
}

impl Left {
    fn note(&mut self, file: &str, before: Option<&String>, after: Result<Option<String>, String>) {
        match after {
            Err(why) => self.blocked.push(format!("{} {why}", plain(file))),
            Ok(after) if after.as_ref() == before => (),
            Ok(after) => {
                let (file, before) = (file.to_owned(), before.cloned());
                self.changes.push(Change { like: file.clone(), file, before, after });
            }
        }
    }
}

/// A file without us; `None` if it goes.
fn without(folder: &Folder, file: &str, text: &str) -> Result<Option<String>, String> {
    let name = file.strip_suffix(super::CILIUM_SUFFIX).unwrap_or(file);
    if wrap::is_ours(name) && matches!(wrap::known(folder, file), wrap::Known::Ours { .. }) {
        return Ok(None);
    }
    if !name.ends_with(".conflist") {
        return match load::single(text) {
            Ok(single) if single.plugin.is_ours() => Err("is a network of mesh-init alone".to_owned()),
            Ok(_) | Err(_) => Ok(Some(text.to_owned())),
        };
    }
    match edit::without(text) {
        Ok(Some(left)) => Ok(Some(left)),
        Ok(None) => Err("has no plugin but mesh-init, and a list may not be empty".to_owned()),
        Err(why) => Err(format!("names mesh-init and cannot be loaded: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_in_that_cannot_be_read_keeps_the_program() {
        let with = |text: super::super::Text| {
            let drop_ins = [(format!("net/{DROP_IN}"), text)].into();
            leave(&Folder { drop_ins, ..Folder::default() })
        };
        let left = with(Err("is not UTF-8".to_owned()));
        assert_eq!(left.blocked, [format!("net/{DROP_IN} is not UTF-8")]);
        assert_eq!(with(Err(NOWHERE.to_owned())), Left::default());
        let gone = with(Ok("{}".to_owned()));
        assert_eq!((gone.changes.len(), gone.blocked.len()), (1, 0));
    }
}
