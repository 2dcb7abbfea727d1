//! Joining a chain: what is to be changed so that the runtime calls us for its pods.

use super::choose::{Choice, Form, Unchosen, choose};
use super::edit::{self, Entry};
use super::load::{self, List, SUPPORTED, Single, Version};
use super::request::DropIn;
use super::wrap::{self, Known};
use super::{CILIUM_SUFFIX, Change, DROP_IN, Folder, Runtime, TYPE, is_network_name};
use crate::error::Class;
use crate::error::Error;
use crate::input::fault::plain;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The network's name; the runtime's default one if `None`.
    pub chain: Option<String>,
    /// Whose choice is followed.
    pub runtime: Runtime,
    /// Whether a file of our own is made.
    pub drop_in: DropIn,
    /// Whether the runtime's program was looked at, and reads drop-ins.
    pub reads_drop_ins: Option<bool>,
    /// Our entry.
    pub entry: Entry,
}

/// How we stand in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// In the runtime's own list.
    Inline,
    /// In a file of our own that is appended to it.
    DropIn,
    /// In a list of our own around a single plugin.
    Wrapped,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The network's name.
    pub network: String,
    /// The file in which our entry stands.
    pub file: String,
    /// How.
    pub how: How,
    /// Why that way.
    pub reason: String,
    /// The changes, in their order; none if all is in place.
    pub changes: Vec<Change>,
    /// What else is worth saying.
    pub notes: Vec<String>,
}

/// Why nothing can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unjoined {
    /// What is wrong.
    pub error: Error,
    /// Whether the network's owner may be about to mend it, so that waiting makes sense.
    pub passing: bool,
}

/// What is to be changed in `folder`.
///
/// # Errors
/// There is no chain that can be joined.
pub fn join(folder: &Folder, asked: &Asked) -> Result<Joined, Unjoined> {
    let mut folder = folder.clone();
    let mut changes = abandoned(&mut folder);
    let notes = cilium(&folder);
    let mut joined = match choose(&folder, asked.runtime, asked.chain.as_deref()) {
        Ok(choice) => chosen(&folder, &choice, asked)?,
        Err(why) => return Err(unchosen(why, &folder, asked)),
    };
    changes.append(&mut joined.changes);
    joined.changes = changes;
    joined.notes.splice(..0, notes);
    joined.notes.extend(beside(&folder, &joined, asked));
    Ok(joined)
}

/// Our lists around plugins whose owners took them away: they would keep a network alive that nobody wants any more.
fn abandoned(folder: &mut Folder) -> Vec<Change> {
    let ours: Vec<String> = folder.configurations().map(|(name, _)| name.to_owned()).collect();
    let mut changes = Vec::new();
    for file in ours.into_iter().filter(|file| wrap::is_ours(file)) {
        if wrap::known(folder, &file) == (Known::Ours { original: None })
            && let Some(Ok(before)) = folder.files.remove(&file)
        {
            changes.push(Change { like: file.clone(), file, before: Some(before), after: None });
        }
    }
    changes
}

fn chosen(folder: &Folder, choice: &Choice, asked: &Asked) -> Result<Joined, Unjoined> {
    match &choice.form {
        Form::Single(single) => wrapped(folder, &choice.file, single, asked, None),
        Form::List(list) => {
            let known =
                if wrap::is_ours(&choice.file) { wrap::known(folder, &choice.file) } else { Known::Extended };
            let Known::Ours { original: Some(original) } = known else {
                return of_list(folder, choice, list, asked);
            };
            match folder.files.get(&original).map(|text| text.as_ref().map(|text| load::single(text))) {
                Some(Ok(Ok(single))) => wrapped(folder, &original, &single, asked, Some(&choice.file)),
                _ => of_list(folder, choice, list, asked),
            }
        }
    }
}

/// A list around the single plugin in `file`; `there` is the one that we made earlier.
fn wrapped(
    folder: &Folder,
    file: &str,
    single: &Single,
    asked: &Asked,
    there: Option<&str>,
) -> Result<Joined, Unjoined> {
    let text = text_of(folder, file)?;
    speaks(file, single.version)?;
    if asked.drop_in == DropIn::Always {
        let remedy = "leave --drop-in out: it is put into a list that sorts before it";
        return Err(host(file, "is a single plugin, beside which no runtime reads drop-ins", remedy));
    }
    if single.plugin.is_ours() {
        let remedy = "take the file away: mesh-init makes no interface and stands behind a plugin that does";
        return Err(host(file, "is a network of mesh-init alone", remedy));
    }
    let after = wrap::text(single, text, &asked.entry)
        .map_err(|why| host(file, &why, "have its owner write a .conflist"))?;
    let name = match there {
        Some(there) => there.to_owned(),
        None => wrap::name(folder, file).ok_or_else(|| {
            host(file, "has another file before it so near that none fits between", "rename one of the two")
        })?,
    };
    let before = there.map(|there| text_of(folder, there)).transpose()?.map(str::to_owned);
    let changed = before.as_deref() != Some(&after);
    let change = Change { file: name.clone(), before, after: Some(after), like: file.to_owned() };
    Ok(Joined {
        network: single.name.clone(),
        file: name,
        how: How::Wrapped,
        reason: format!("{} is a single plugin and stays as it is", plain(file)),
        changes: changed.then_some(change).into_iter().collect(),
        notes: Vec::new(),
    })
}

fn of_list(folder: &Folder, choice: &Choice, list: &List, asked: &Asked) -> Result<Joined, Unjoined> {
    let file = choice.file.as_str();
    let text = text_of(folder, file)?;
    speaks(file, list.version)?;
    let (how, reason) = way(file, list, asked)?;
    let mut changes = Vec::new();
    let mut change = |file: &str, before: Option<&str>, after: Option<String>| {
        if before != after.as_deref() {
            let (file, before) = (file.to_owned(), before.map(str::to_owned));
            changes.push(Change { file, before, after, like: choice.file.clone() });
        }
    };
    let own = format!("{}/{DROP_IN}", list.name);
    // No change of what cannot be read could be told from somebody else's.
    let there = folder
        .drop_ins
        .get(&own)
        .map(|text| text.as_deref().map_err(|why| host(&own, why, "take it away, for it is ours to make")));
    let there = there.transpose()?;
    let inline = |entry: Option<&Entry>| match entry {
        Some(entry) => edit::with(text, entry).map(Some),
        None => edit::without(text),
    };
    let failed = |why: String| host(file, &why, "mend it");
    // What brings us in goes first, then what took us in before.
    match how {
        How::DropIn => {
            let after = edit::drop_in(&asked.entry);
            let same =
                there.and_then(|text| serde_json::from_str::<Entry>(text).ok()) == Some(asked.entry.clone());
            let after = if same { there.map(str::to_owned) } else { Some(after) };
            change(&own, there, after);
            if list.has_ours() {
                let left = inline(None).map_err(failed)?.ok_or_else(|| {
                    host(file, "has no plugin but mesh-init", "have a plugin in it that makes an interface")
                })?;
                change(file, Some(text), Some(left));
            }
        }
        How::Inline | How::Wrapped => {
            change(file, Some(text), inline(Some(&asked.entry)).map_err(failed)?);
            if there.is_some() {
                change(&own, there, None);
            }
        }
    }
    let place = if how == How::DropIn { own } else { file.to_owned() };
    let mut notes = Vec::new();
    if how == How::Inline && list.items().iter().all(load::Plugin::is_ours) {
        return Err(host(file, "has no plugin but mesh-init", "have a plugin in it that makes an interface"));
    }
    if how == How::DropIn && asked.reads_drop_ins == Some(false) {
        notes.push(
            "the runtime's program does not seem to read drop-ins: it never names loadOnlyInlinedPlugins"
                .to_owned(),
        );
    }
    Ok(Joined { network: list.name.clone(), file: place, how, reason, changes, notes })
}

/// Inline or a drop-in. A drop-in that nobody reads leaves every pod uncaptured and says nothing, an edit always takes
/// effect: `auto` wants proof. That others have drop-ins, or that the list says `loadOnlyInlinedPlugins: false`, proves
/// what its author wished, not what the runtime does. Proof is a list with no plugins of its own (a runtime that reads no
/// drop-ins has no network there, and starts no pod), or the runtime's own program.
fn way(file: &str, list: &List, asked: &Asked) -> Result<(How, String), Unjoined> {
    let fits = is_network_name(&list.name);
    match (asked.drop_in, &list.plugins) {
        (DropIn::Never, None) => {
            Err(host(file, "has no plugins of its own to stand behind", "leave --drop-in never out"))
        }
        (DropIn::Always, _) if list.only_inlined => {
            Err(host(file, "says loadOnlyInlinedPlugins: no drop-in is read", "leave --drop-in always out"))
        }
        (DropIn::Always, _) | (DropIn::Auto, None) if !fits => {
            Err(host(file, "has a network name that can be no folder's", "give its network another name"))
        }
        (DropIn::Always, _) => Ok((How::DropIn, "asked for with --drop-in always".to_owned())),
        (DropIn::Auto, None) => {
            let reason = "the list has no plugins of its own, so a runtime that works with it reads drop-ins";
            Ok((How::DropIn, reason.to_owned()))
        }
        (DropIn::Auto, Some(_)) if asked.reads_drop_ins == Some(true) && !list.only_inlined && fits => Ok((
            How::DropIn,
            "the runtime's program reads drop-ins: it names loadOnlyInlinedPlugins".to_owned(),
        )),
        (DropIn::Never, Some(_)) => Ok((How::Inline, "asked for with --drop-in never".to_owned())),
        (DropIn::Auto, Some(_)) => {
            Ok((How::Inline, "nothing proves that the runtime reads drop-ins".to_owned()))
        }
    }
}

fn text_of<'a>(folder: &'a Folder, file: &str) -> Result<&'a str, Unjoined> {
    match folder.files.get(file) {
        Some(Ok(text)) => Ok(text),
        Some(Err(why)) => Err(host(file, why, "mend it")),
        None => Err(host(file, "is not there", "run it again")),
    }
}

/// The runtime hands its version on to every plugin of the chain, and one that does not know it fails every pod.
fn speaks(file: &str, version: Version) -> Result<(), Unjoined> {
    if SUPPORTED.contains(&version) {
        return Ok(());
    }
    let (major, minor, patch) = version;
    let problem =
        format!("is of CNI version {major}.{minor}.{patch}, and mesh-init works with 0.3.0 to 1.1.0");
    Err(host(file, &problem, "have its owner set another cniVersion (without one it is 0.1.0)"))
}

fn host(file: &str, problem: &str, remedy: &str) -> Unjoined {
    Unjoined { error: Error::host(format!("{} {problem}", plain(file))).remedy(remedy), passing: false }
}

fn unchosen(why: Unchosen, folder: &Folder, asked: &Asked) -> Unjoined {
    let aside = folder.set_aside().count();
    let error = match why {
        Unchosen::Nothing if aside > 0 => Error::new(
            Class::TryAgain,
            format!("there is no configuration but {aside} that Cilium set aside"),
        )
        .remedy("wait until Cilium's own is there (--wait), with its cni.exclusive=false"),
        Unchosen::Nothing => Error::new(Class::TryAgain, "there is no configuration that could be joined")
            .remedy("wait until the network's own installer wrote it: --wait SECONDS"),
        Unchosen::Invalid { file, why } => {
            let remedy = match asked.runtime {
                Runtime::Containerd => {
                    "mend it or take it away: containerd starts no pod with it (--runtime crio passes over it)"
                }
                Runtime::Crio => "mend it",
            };
            Error::host(format!("{} is the runtime's choice and cannot be loaded: {why}", plain(&file)))
                .remedy(remedy)
        }
        Unchosen::NotNamed(there) => {
            let name = asked.chain.as_deref().unwrap_or_default();
            let there: Vec<String> = there.iter().map(|name| plain(name).into_owned()).collect();
            Error::host(format!("no configuration that loads is called {}", plain(name)))
                .remedy(format!("give one of: {}", there.join(", ")))
        }
    };
    Unjoined { error, passing: true }
}

/// That Cilium takes configurations away.
fn cilium(folder: &Folder) -> Option<String> {
    let files: Vec<_> = folder.set_aside().map(|(name, _)| plain(name)).collect();
    let named = |text: &super::Text| text.as_ref().is_ok_and(|text| text.contains(TYPE));
    let ours = folder.set_aside().any(|(_, text)| named(text));
    (!files.is_empty()).then(|| {
        let ours = if ours { ", ours among them" } else { "" };
        format!(
            "Cilium set other configurations aside ({}{ours}; *{CILIUM_SUFFIX}): set its cni.exclusive=false, or it takes this back",
            files.join(", ")
        )
    })
}

/// That the network joined is not the one that pods get.
fn beside(folder: &Folder, joined: &Joined, asked: &Asked) -> Option<String> {
    asked.chain.as_ref()?;
    let default = choose(folder, asked.runtime, None).ok()?;
    (default.network() != joined.network).then(|| {
        let (network, file) = (plain(default.network()), plain(&default.file));
        format!("the first configuration is {network} in {file}: pods get that one unless the runtime is told otherwise")
    })
}
