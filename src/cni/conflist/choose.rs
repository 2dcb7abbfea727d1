//! Which file a runtime takes for the network of its pods.

use super::load::{self, List, Single};
use super::{Folder, MAX_FILE};
use crate::input::fault::plain;

/// Whose choice it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// containerd's go-cni (`loadFromConfDir` with a maximum of one file, which is its default): the first file in byte
    /// order, and one that cannot be loaded is an error. Also k3s and RKE2.
    #[default]
    Containerd,
    /// CRI-O's ocicni (`loadNetworks`): the first file in byte order that can be loaded; others are skipped. It also
    /// skips one whose programs are not all there, which cannot be seen here: its plugin folders are its own.
    Crio,
}

/// A configuration that loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The file.
    pub file: String,
    /// What is in it.
    pub form: Form,
}

/// The two forms of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// `.conflist`.
    List(List),
    /// `.conf` and `.json`.
    Single(Single),
}

impl Choice {
    /// The network's name.
    #[must_use]
    pub fn network(&self) -> &str {
        match &self.form {
            Form::List(list) => &list.name,
            Form::Single(single) => &single.name,
        }
    }
}

/// Why there is no choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unchosen {
    /// The folder has no configuration.
    Nothing,
    /// This one is the runtime's choice, and does not load.
    Invalid {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// None that loads has that name; these are there.
    NotNamed(Vec<String>),
}

/// What `runtime` takes; with `name` given, the first file in byte order that loads and has that name, as CRI-O
/// (`cni_default_network`) and podman look for one.
///
/// # Errors
/// It takes none.
pub fn choose(folder: &Folder, runtime: Runtime, name: Option<&str>) -> Result<Choice, Unchosen> {
    let mut invalid = None;
    let mut named = Vec::new();
    for (file, _) in folder.configurations() {
        match load(folder, file) {
            Ok(choice) => match name {
                Some(name) if choice.network() != name => named.push(choice.network().to_owned()),
                Some(_) | None => return Ok(choice),
            },
            Err(why) => {
                let why = Unchosen::Invalid { file: file.to_owned(), why };
                if runtime == Runtime::Containerd && name.is_none() {
                    return Err(why);
                }
                invalid.get_or_insert(why);
            }
        }
    }
    match (invalid, name) {
        (_, Some(_)) if !named.is_empty() => Err(Unchosen::NotNamed(named)),
        (Some(invalid), _) => Err(invalid),
        (None, _) => Err(Unchosen::Nothing),
    }
}

/// Loads one file as a runtime does.
///
/// # Errors
/// Why it does not load.
pub fn load(folder: &Folder, file: &str) -> Result<Choice, String> {
    let text = match folder.files.get(file) {
        None => return Err("is not there".to_owned()),
        Some(Err(why)) => return Err(why.clone()),
        Some(Ok(text)) => text,
    };
    if text.len() > MAX_FILE {
        return Err(format!("is larger than {} MiB, the most that containerd reads", MAX_FILE >> 20));
    }
    let form = match file.ends_with(".conflist") {
        true => Form::List(load::list(text)?),
        false => Form::Single(load::single(text)?),
    };
    if let Form::List(List { plugins: None, name, .. }) = &form
        && folder.drop_ins_of(name).next().is_none()
    {
        return Err(format!("has no plugins, and no file in {}/ adds any", plain(name)));
    }
    Ok(Choice { file: file.to_owned(), form })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> Folder {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned())));
        Folder { files: files.collect(), ..Folder::default() }
    }

    const A: &str = r#"{"name":"a","plugins":[{"type":"bridge"}]}"#;
    const B: &str = r#"{"name":"b","type":"bridge"}"#;

    #[test]
    fn the_first_in_byte_order_wins() {
        let file = |files: &[(&str, &str)]| choose(&folder(files), Runtime::Containerd, None).unwrap().file;
        assert_eq!(file(&[("10-a.conflist", A), ("10-a.conf", B)]), "10-a.conf");
        assert_eq!(file(&[("9.conflist", A), ("10.json", B)]), "10.json");
        assert_eq!(file(&[("a.conflist", A), ("B.json", B)]), "B.json");
        assert_eq!(file(&[("0.conflist~", "x"), ("0.conflist.tmp", "x"), ("z.conflist", A)]), "z.conflist");
    }

    #[test]
    fn an_invalid_first_file_stops_containerd_and_not_crio() {
        let folder = folder(&[("05-x.conflist", "{"), ("10-a.conflist", A), ("20-b.conf", B)]);
        let Err(Unchosen::Invalid { file, .. }) = choose(&folder, Runtime::Containerd, None) else {
            panic!()
        };
        assert_eq!(file, "05-x.conflist");
        assert_eq!(choose(&folder, Runtime::Crio, None).unwrap().file, "10-a.conflist");
        assert_eq!(choose(&folder, Runtime::Crio, Some("b")).unwrap().file, "20-b.conf");
        assert_eq!(choose(&folder, Runtime::Containerd, Some("b")).unwrap().file, "20-b.conf");
        let Err(Unchosen::NotNamed(named)) = choose(&folder, Runtime::Crio, Some("c")) else { panic!() };
        assert_eq!(named, ["a", "b"]);
    }

    #[test]
    fn a_list_without_plugins_needs_drop_ins() {
        let mut folder = folder(&[("10-a.conflist", r#"{"name":"a","cniVersion":"1.1.0"}"#)]);
        assert_eq!(load(&folder, "10-a.conflist").unwrap_err(), "has no plugins, and no file in a/ adds any");
        folder.drop_ins.insert("a/10-bridge.conf".to_owned(), Ok(r#"{"type":"bridge"}"#.to_owned()));
        assert!(load(&folder, "10-a.conflist").is_ok());
        assert_eq!(choose(&Folder::default(), Runtime::Crio, None), Err(Unchosen::Nothing));
    }
}
