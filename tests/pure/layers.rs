//! What a file of `src` may name and what it may do, judged on its syntax tree.
//!
//! The picture is `input -> policy -> rules -> backend -> host -> sys`. Data flows along the arrows; a layer knows
//! the layers before it and never one after it, except that `host` (and `run`, which ties all together) calls `sys`.
//! The tables below are that picture, written out. Beneath them: the judge, then the planted violations which show
//! that every line of the tables bites, then the real tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fmt, fs, io};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Stands for every layer.
const ANY: &str = "*";

/// Layer (a folder or file right below `src`), and the other layers it may name. A layer names only lines above it.
#[rustfmt::skip]
const MAY_NAME: &[(&str, &[&str])] = &[
    ("error",   &[]),
    ("netlink", &[]),
    ("input",   &["error"]),
    ("policy",  &["error", "input"]),
    ("rules",   &["error", "policy"]),
    ("eval",    &["error", "policy", "rules"]),
    ("backend", &["error", "netlink", "policy", "rules", "eval"]),
    ("cni",     &["error", "input", "policy"]),
    ("sys",     &["error", "netlink"]),
    ("host",    &["error", "policy", "rules", "eval", "backend", "cni", "sys"]),
    ("report",  &["error", "input", "policy", "rules", "eval", "backend", "cni"]),
    ("cli",     &["error", "input"]),
    ("run",     &[ANY]),
    ("lib",     &[ANY]),
    ("main",    &[ANY]),
];

/// What reaches the machine, and the layers where it may stand. Code under `#[cfg(test)]` is exempt.
#[rustfmt::skip]
const EFFECTS: &[(&str, &[&str])] = &[
    ("std::env",                   &["sys", "run", "main"]),
    ("std::fs",                    &["sys"]),
    ("std::io::stdin",             &["sys", "run", "main"]),
    ("std::io::stdout",            &["sys", "run", "main"]),
    ("std::io::stderr",            &["sys", "run", "main"]),
    ("std::net::TcpListener",      &["sys"]),
    ("std::net::TcpStream",        &["sys"]),
    ("std::net::ToSocketAddrs",    &["sys"]),
    ("std::net::UdpSocket",        &["sys"]),
    ("std::os::linux",             &["sys"]),
    ("std::os::unix::fs",          &["sys"]),
    ("std::os::unix::net",         &["sys"]),
    ("std::os::unix::process",     &["sys"]),
    ("std::process::Command",      &["sys"]),
    ("std::thread",                &["sys", "host", "run"]),
    ("std::time::Instant::now",    &["sys", "host", "run"]),
    ("std::time::SystemTime",      &["sys"]),
    ("aya_obj",                    &["sys"]),
    ("caps",                       &["sys"]),
    ("libc",                       &["sys"]),
    ("nix",                        &["sys"]),
    ("rtnetlink",                  &["sys"]),
    ("tokio",                      &["sys"]),
];

/// Methods without arguments that reach the machine through a plain value (`Path`, `Instant`, `&str`).
#[rustfmt::skip]
const EFFECT_METHODS: &[(&str, &[&str])] = &[
    ("canonicalize",     &["sys"]),
    ("elapsed",          &["sys", "host", "run"]),
    ("exists",           &["sys"]),
    ("is_dir",           &["sys"]),
    ("is_file",          &["sys"]),
    ("read_dir",         &["sys"]),
    ("read_link",        &["sys"]),
    ("symlink_metadata", &["sys"]),
    ("to_socket_addrs",  &["sys"]),
    ("try_exists",       &["sys"]),
];

/// The macros that print, and the layers that may use them: all others return what they have to say.
const PRINTING: (&[&str], &[&str]) = (&["print", "println", "eprint", "eprintln", "dbg"], &["run", "main"]);

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["sys"];

/// The most lines a file may have, not counting a test module at its end.
const MAX_LINES: usize = 500;

// === the judge ===

/// One broken rule, at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: String,
    line: usize,
    what: String,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}: {}", self.file, self.line, self.what, self.rule)
    }
}

/// How many imports of imports are followed.
const MAX_DEPTH: usize = 8;

/// Judges a source tree: pairs of a path below `src` and the text of that file.
fn judge(files: &[(String, String)]) -> Vec<Violation> {
    let mut found = BTreeSet::new();
    let mut read = Vec::new();
    for (file, source) in files {
        match syn::parse_file(source).and_then(|tree| Ok((tree, source.parse::<TokenStream>()?))) {
            Ok((tree, tokens)) => read.push((file, source, Reader::read(file, &tree), tree, tokens)),
            Err(error) => {
                let (line, what) = (error.span().start().line, error.to_string());
                found.insert(Violation {
                    file: file.clone(),
                    line,
                    what,
                    rule: "source can be parsed".to_owned(),
                });
            }
        }
    }
    let (mut names, mut tests) = (Names::default(), BTreeSet::new());
    for (_, _, reader, ..) in &mut read {
        names.add(std::mem::take(&mut reader.names));
        tests.append(&mut reader.test_files);
    }
    for (file, source, reader, tree, tokens) in &read {
        let is_test =
            reader.is_test || (1..=reader.home.len()).any(|n| tests.contains(prefix(&reader.home, n)));
        let mut case = Case { file, layer: layer_of(file), is_test, found: &mut found };
        case.form(source, tree);
        case.no_unsafe(tokens.clone());
        for mention in &reader.mentions {
            case.mention(&names, reader.home.len(), mention);
        }
    }
    found.into_iter().collect()
}

/// The layer of a file: the first part of its path.
fn layer_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The module that a file is the home of.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    let index = ["mod", "lib", "main"].iter().any(|name| parts.last().is_some_and(|last| last == name));
    parts.truncate(parts.len() - usize::from(index));
    parts
}

fn prefix(path: &[String], length: usize) -> &[String] {
    path.get(..length).unwrap_or(path)
}

fn allows(layers: &[&str], layer: &str) -> bool {
    layers.contains(&ANY) || layers.contains(&layer)
}

/// One file before the judge.
struct Case<'a> {
    file: &'a str,
    layer: &'a str,
    is_test: bool,
    found: &'a mut BTreeSet<Violation>,
}

impl Case<'_> {
    fn report(&mut self, line: usize, what: impl Into<String>, rule: impl Into<String>) {
        let (what, rule) = (what.into(), rule.into());
        self.found.insert(Violation { file: self.file.to_owned(), line, what, rule });
    }

    /// The head, the length, and a place in the picture.
    fn form(&mut self, source: &str, tree: &syn::File) {
        if !MAY_NAME.iter().any(|(layer, _)| *layer == self.layer) {
            self.report(1, format!("`{}`", self.layer), "no such layer: give it a line in MAY_NAME");
        }
        let head = source.trim_start().lines().next().unwrap_or_default();
        if head.strip_prefix("//!").is_none_or(|text| text.trim().is_empty()) {
            self.report(1, "no head", "a file begins with a `//!` line that says what it is for");
        }
        let mut lines = source.lines().count();
        if let Some(syn::Item::Mod(last)) = tree.items.last()
            && let Some(first) = last.attrs.first()
            && last.attrs.iter().any(is_test)
        {
            lines = first.pound_token.span.start().line.saturating_sub(1);
        }
        if lines > MAX_LINES && !self.is_test {
            self.report(
                lines,
                format!("{lines} lines"),
                format!("a file has at most {MAX_LINES} lines before its tests"),
            );
        }
    }

    /// `unsafe` in any place, macros included, and attributes that would let it in. Tests are not exempt.
    fn no_unsafe(&mut self, tokens: TokenStream) {
        if allows(UNSAFE, self.layer) {
            return;
        }
        let rule = format!("unsafe belongs in {}", UNSAFE.join(", "));
        let mut previous = String::new();
        for token in tokens {
            match token {
                TokenTree::Ident(word) => {
                    previous = word.to_string();
                    if previous == "unsafe" {
                        self.report(line(&word), "`unsafe`", &rule);
                    }
                }
                TokenTree::Group(group) => {
                    let lints = ["allow", "expect", "warn"].contains(&previous.as_str());
                    if lints && group.stream().into_iter().any(|lint| lint.to_string() == "unsafe_code") {
                        self.report(
                            group.span_open().start().line,
                            format!("`{previous}(unsafe_code)`"),
                            &rule,
                        );
                    }
                    self.no_unsafe(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn mention(&mut self, names: &Names, home: usize, mention: &Mention) {
        let written = mention.path.join("::");
        let is_test = self.is_test || mention.is_test;
        match mention.form {
            Form::Method => {
                let effect = EFFECT_METHODS.iter().find(|(method, _)| *method == written);
                if let Some((_, layers)) = effect
                    && !is_test
                    && !allows(layers, self.layer)
                {
                    let rule = format!("effects belong in {}", layers.join(", "));
                    self.report(mention.line, format!("`.{written}()`"), rule);
                }
                return;
            }
            Form::Macro => {
                let name = mention.path.last().map_or("", String::as_str);
                let (macros, layers) = PRINTING;
                if macros.contains(&name) && !is_test && !allows(layers, self.layer) {
                    let rule = format!("printing belongs in {}", layers.join(", "));
                    self.report(mention.line, format!("`{name}!`"), rule);
                }
                if name == "include" {
                    self.report(mention.line, "`include!`", "source stands where its module path says");
                }
            }
            Form::PathAttribute => {
                self.report(mention.line, "`#[path]`", "source stands where its module path says");
                return;
            }
            Form::Import | Form::Glob | Form::Path => {}
        }
        for Target { path, imported } in names.resolve(home, &mention.module, &mention.path, 0) {
            let full = path.join("::");
            let shown =
                if full == written { format!("`{full}`") } else { format!("`{full}` (as `{written}`)") };
            if path.first().is_some_and(|first| first == "crate") {
                self.layers(mention, &path, imported, &shown);
            } else if !is_test && mention.form != Form::Macro {
                self.effects(mention, &full, imported, &shown);
            }
        }
    }

    fn layers(&mut self, mention: &Mention, path: &[String], imported: usize, shown: &str) {
        let others =
            MAY_NAME.iter().find(|(layer, _)| *layer == self.layer).map_or(&[][..], |(_, others)| others);
        let rule = match others {
            [] => format!("{} names no other layer", self.layer),
            _ => format!("{} names only {}", self.layer, others.join(", ")),
        };
        match path.get(1) {
            // An import or glob of the crate root brings every layer in, under names that cannot be followed.
            None if matches!(mention.form, Form::Import | Form::Glob) && !allows(others, ANY) => {
                self.report(mention.line, format!("{shown}, the whole crate"), rule);
            }
            // What came through an import was judged there.
            Some(layer) if imported < 2 && layer != self.layer && !allows(others, layer) => {
                self.report(mention.line, shown, rule);
            }
            _ => {}
        }
    }

    fn effects(&mut self, mention: &Mention, full: &str, imported: usize, shown: &str) {
        for (effect, layers) in EFFECTS {
            let is_under = |path: &str, root: &str| {
                path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            // What came through an import was judged there, unless the import stopped short of the effect.
            let judged = imported >= effect.split("::").count();
            let brought_in = mention.form == Form::Glob && is_under(effect, full);
            if (is_under(full, effect) && !judged || brought_in) && !allows(layers, self.layer) {
                self.report(mention.line, shown, format!("{effect} belongs in {}", layers.join(", ")));
            }
        }
    }
}

// === reading a file ===

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Import,
    Glob,
    Path,
    Macro,
    Method,
    PathAttribute,
}

/// A path as it is written, and where. A leading `::` is an empty first segment.
struct Mention {
    form: Form,
    path: Vec<String>,
    module: Vec<String>,
    line: usize,
    is_test: bool,
}

/// A path from the crate's root (`crate::...`) or from an external crate's name.
struct Target {
    path: Vec<String>,
    /// How many of its segments stand in an import elsewhere in the file.
    imported: usize,
}

/// The names that stand for something else, of one file or of the whole tree.
#[derive(Default)]
struct Names {
    /// (module, name) -> paths: every import of a module, those inside its functions too.
    imports: BTreeMap<(Vec<String>, String), Vec<Vec<String>>>,
    /// The declared modules.
    modules: BTreeSet<Vec<String>>,
}

impl Names {
    fn add(&mut self, other: Names) {
        self.modules.extend(other.modules);
        for (name, paths) in other.imports {
            self.imports.entry(name).or_default().extend(paths);
        }
    }

    /// All that a path may stand for, written in `module` of a file whose own module is the first `home` segments of
    /// that. A name that nothing explains is taken for an external crate.
    fn resolve(&self, home: usize, module: &[String], path: &[String], depth: usize) -> Vec<Target> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        match first.as_str() {
            "" => return self.resolve(0, &[], rest, MAX_DEPTH),
            "crate" | "mesh_init" => return self.follow(rest.to_vec(), depth),
            "self" | "super" => return self.follow([module, path].concat(), depth),
            _ => {}
        }
        for scope in (home..=module.len()).rev().filter(|_| depth < MAX_DEPTH).map(|n| prefix(module, n)) {
            let declared = [scope, prefix(path, 1)].concat();
            if self.modules.contains(&declared) {
                return self.follow([scope, path].concat(), depth);
            }
            let targets = self.through(scope, first, rest, depth);
            if !targets.is_empty() {
                return targets;
            }
        }
        vec![Target { path: path.to_vec(), imported: 0 }]
    }

    /// A path from the crate's root, as it stands, and what it stands for where one of its steps is an import.
    fn follow(&self, steps: Vec<String>, depth: usize) -> Vec<Target> {
        let mut path = Vec::new();
        for step in steps {
            match step.as_str() {
                "self" => {}
                "super" => drop(path.pop()),
                _ => path.push(step),
            }
        }
        let mut targets = Vec::new();
        for n in (0..path.len()).filter(|_| depth < MAX_DEPTH) {
            if let (scope, [name, rest @ ..]) = path.split_at(n)
                && !self.modules.contains(prefix(&path, n + 1))
            {
                targets.extend(self.through(scope, name, rest, depth));
            }
        }
        path.insert(0, "crate".to_owned());
        targets.push(Target { path, imported: 0 });
        targets
    }

    /// What `name::rest` stands for when `name` is an import of the module `scope`.
    fn through(&self, scope: &[String], name: &str, rest: &[String], depth: usize) -> Vec<Target> {
        let imports = self.imports.get(&(scope.to_vec(), name.to_owned())).into_iter().flatten();
        let targets = imports
            .filter(|import| import.first().is_none_or(|first| first != name))
            .flat_map(|import| self.resolve(scope.len(), scope, import, depth + 1));
        targets
            .map(|Target { mut path, .. }| {
                let imported = path.len();
                path.extend_from_slice(rest);
                Target { path, imported }
            })
            .collect()
    }
}

/// What one file mentions, and what its imports call it.
#[derive(Default)]
struct Reader {
    /// The file's own module.
    home: Vec<String>,
    /// The module being read: `home`, or one written inside it.
    module: Vec<String>,
    is_test: bool,
    mentions: Vec<Mention>,
    names: Names,
    /// Modules declared here that are whole files of tests.
    test_files: BTreeSet<Vec<String>>,
}

impl Reader {
    fn read(file: &str, tree: &syn::File) -> Reader {
        let home = module_of(file);
        let is_test = tree.attrs.iter().any(is_test);
        let mut reader = Reader { module: home.clone(), home, is_test, ..Reader::default() };
        reader.visit_file(tree);
        reader
    }

    fn note(&mut self, form: Form, path: Vec<String>, line: usize) {
        let (module, is_test) = (self.module.clone(), self.is_test);
        self.mentions.push(Mention { form, path, module, line, is_test });
    }

    fn import(&mut self, form: Form, path: Vec<String>, name: Option<String>, line: usize) {
        if let Some(name) = name {
            self.names.imports.entry((self.module.clone(), name)).or_default().push(path.clone());
        }
        self.note(form, path, line);
    }

    fn use_tree(&mut self, mut path: Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(step) => {
                path.push(text(&step.ident));
                self.use_tree(path, &step.tree);
            }
            syn::UseTree::Name(leaf) => {
                if leaf.ident != "self" {
                    path.push(text(&leaf.ident));
                }
                let name = path.last().cloned();
                self.import(Form::Import, path, name, line(&leaf.ident));
            }
            syn::UseTree::Rename(leaf) => {
                if leaf.ident != "self" || path.is_empty() {
                    path.push(text(&leaf.ident));
                }
                self.import(Form::Import, path, Some(text(&leaf.rename)), line(&leaf.ident));
            }
            syn::UseTree::Glob(star) => {
                self.import(Form::Glob, path, None, star.star_token.span.start().line)
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.use_tree(path.clone(), tree))
            }
        }
    }

    /// The paths in tokens that have no syntax tree: the inside of macros and attributes.
    fn scan(&mut self, tokens: TokenStream, is_attribute: bool) {
        let is = |token: Option<&TokenTree>, wanted: char| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
        let tokens: Vec<_> = tokens.into_iter().filter(|token| !is(Some(token), '$')).collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let after_dot = at.checked_sub(1).is_some_and(|before| is(tokens.get(before), '.'));
            at += 1;
            match token {
                TokenTree::Group(group) => self.scan(group.stream(), is_attribute),
                TokenTree::Literal(literal) if is_attribute => {
                    // `#[serde(with = "crate::...")]` is a path, too.
                    let tokens = TokenStream::from(TokenTree::Literal(literal.clone()));
                    if let Ok(path) = syn::parse2::<syn::LitStr>(tokens).and_then(|text| text.parse()) {
                        self.visit_path(&path);
                    }
                }
                TokenTree::Ident(word) if word == "use" => {
                    let rest = tokens.get(at - 1..).unwrap_or_default();
                    let end = rest.iter().position(|token| is(Some(token), ';')).map_or(0, |end| end + 1);
                    if let Ok(item) = syn::parse2::<syn::ItemUse>(rest.iter().take(end).cloned().collect()) {
                        self.visit_item_use(&item);
                        at += end - 1;
                    }
                }
                TokenTree::Ident(first) => {
                    let mut path = vec![text(first)];
                    while is(tokens.get(at), ':')
                        && is(tokens.get(at + 1), ':')
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 2)
                    {
                        path.push(text(next));
                        at += 3;
                    }
                    let group = |at: usize| match tokens.get(at) {
                        Some(TokenTree::Group(group)) => Some(group),
                        Some(_) | None => None,
                    };
                    let form = if is(tokens.get(at), '!') && group(at + 1).is_some() {
                        Form::Macro
                    } else if after_dot {
                        let called = group(at).filter(|group| group.delimiter() == Delimiter::Parenthesis);
                        if called.is_none_or(|group| !group.stream().is_empty()) {
                            continue;
                        }
                        Form::Method
                    } else if path.len() > 1 {
                        Form::Path
                    } else {
                        continue;
                    };
                    self.note(form, path, line(first));
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let outside = self.is_test;
        self.is_test |= attributes(item).iter().any(is_test);
        visit::visit_item(self, item);
        self.is_test = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let outside = self.is_test;
        self.is_test |= item.attrs.iter().any(is_test);
        visit::visit_impl_item_fn(self, item);
        self.is_test = outside;
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let outside = self.module.clone();
        self.module.push(text(&item.ident));
        self.names.modules.insert(self.module.clone());
        if item.content.is_none() && self.is_test {
            self.test_files.insert(self.module.clone());
        }
        visit::visit_item_mod(self, item);
        self.module = outside;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let root = item.leading_colon.as_ref().map(|_| String::new());
        self.use_tree(root.into_iter().collect(), &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let path = if item.ident == "self" { "crate".to_owned() } else { text(&item.ident) };
        let name = item.rename.as_ref().map_or(path.clone(), |(_, name)| text(name));
        self.import(Form::Import, vec![path], Some(name), line(&item.ident));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first()
            && path.segments.len() > 1
        {
            let root = path.leading_colon.as_ref().map(|_| String::new());
            let segments = path.segments.iter().map(|segment| text(&segment.ident));
            self.note(Form::Path, root.into_iter().chain(segments).collect(), line(&first.ident));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let path: Vec<_> = call.path.segments.iter().map(|segment| text(&segment.ident)).collect();
        self.note(Form::Macro, path, call.bang_token.span.start().line);
        self.scan(call.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("path") {
            self.note(Form::PathAttribute, Vec::new(), attribute.pound_token.span.start().line);
        }
        if let syn::Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone(), true);
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.args.is_empty() {
            self.note(Form::Method, vec![text(&call.method)], line(&call.method));
        }
        visit::visit_expr_method_call(self, call);
    }
}

fn text(ident: &syn::Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

fn line(ident: &syn::Ident) -> usize {
    ident.span().start().line
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, ...))]`: what no release can contain.
fn is_test(attribute: &syn::Attribute) -> bool {
    fn implies_test(meta: &syn::Meta) -> bool {
        let list = |list: &syn::MetaList| {
            list.parse_args_with(syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|inner| inner.iter().any(implies_test))
        };
        match meta {
            syn::Meta::Path(path) => path.is_ident("test"),
            syn::Meta::List(inner) => inner.path.is_ident("all") && list(inner),
            syn::Meta::NameValue(_) => false,
        }
    }
    let inner = attribute.meta.require_list().and_then(|list| list.parse_args::<syn::Meta>());
    attribute.path().is_ident("test")
        || attribute.path().is_ident("cfg") && inner.is_ok_and(|m| implies_test(&m))
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item as I;
    match item {
        I::Const(syn::ItemConst { attrs, .. })
        | I::Enum(syn::ItemEnum { attrs, .. })
        | I::ExternCrate(syn::ItemExternCrate { attrs, .. })
        | I::Fn(syn::ItemFn { attrs, .. })
        | I::ForeignMod(syn::ItemForeignMod { attrs, .. })
        | I::Impl(syn::ItemImpl { attrs, .. })
        | I::Macro(syn::ItemMacro { attrs, .. })
        | I::Mod(syn::ItemMod { attrs, .. })
        | I::Static(syn::ItemStatic { attrs, .. })
        | I::Struct(syn::ItemStruct { attrs, .. })
        | I::Trait(syn::ItemTrait { attrs, .. })
        | I::TraitAlias(syn::ItemTraitAlias { attrs, .. })
        | I::Type(syn::ItemType { attrs, .. })
        | I::Union(syn::ItemUnion { attrs, .. })
        | I::Use(syn::ItemUse { attrs, .. }) => attrs,
        I::Verbatim(_) | _ => &[],
    }
}

// === the tests ===

/// What the judge says about one file with this text below a head line: `line: what: rule`, the text's first line being 1.
fn verdict(file: &str, text: &str) -> Vec<String> {
    let source = format!("//! Head.\n{text}");
    judge(&[(file.to_owned(), source)])
        .iter()
        .map(|v| format!("{}: {}: {}", v.line - 1, v.what, v.rule))
        .collect()
}

/// The files below `folder`, by their paths from there.
fn sources(folder: &Path, below: &str, files: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            sources(&entry.path(), &format!("{name}/"), files)?;
        } else if name.ends_with(".rs") {
            files.push((name, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

#[test]
fn the_source_keeps_its_layers() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files).unwrap();
    assert!(files.iter().any(|(file, _)| file == "lib.rs"), "no source found");
    let violations: Vec<_> = judge(&files).iter().map(|v| format!("  {v}\n")).collect();
    assert!(violations.is_empty(), "{} broken rules:\n{}", violations.len(), violations.concat());
}

#[test]
fn the_picture_has_no_way_back() {
    for (line, (layer, others)) in MAY_NAME.iter().enumerate() {
        for other in others.iter().filter(|other| **other != ANY) {
            let above = MAY_NAME[..line].iter().any(|(name, _)| name == other);
            assert!(above, "{layer} names {other}, which does not stand above it");
        }
    }
    let layers: Vec<_> = EFFECTS.iter().chain(EFFECT_METHODS).flat_map(|(_, layers)| *layers).collect();
    for layer in layers.into_iter().chain(PRINTING.1).chain(UNSAFE) {
        assert!(MAY_NAME.iter().any(|(name, _)| name == layer), "no layer is called {layer}");
    }
}

/// Every way to write the path of a thing in layer `X` from within `rules/inner/deep.rs` and the like.
const WAYS_TO_NAME: &[&str] = &[
    "use crate::X::Thing;",
    "use crate::X::*;",
    "use crate::X;",
    "use crate::X as other;",
    "use crate::r#X::Thing;",
    "pub use crate::X::Thing as Other;",
    "pub(crate) use crate::X::Thing as _;",
    "use crate::{X::{Thing}};",
    "use mesh_init::X::Thing;",
    "use ::mesh_init::X::Thing;",
    "use super::super::super::X::Thing;",
    "use self::super::super::super::{X as other};",
    "mod inner { use super::super::super::super::X::Thing; }",
    "fn f() { use crate::X::Thing; }",
    "fn f() { crate::X::thing() }",
    "fn f() { mesh_init::X::thing() }",
    "fn f() { super::super::super::X::thing() }",
    "fn f() -> Vec<crate::X::Thing> { Vec::new() }",
    "fn f() { Vec::<crate::X::Thing>::new() }",
    "fn f() { <crate::X::Thing as Clone>::clone() }",
    "fn f() { <u8 as crate::X::Thing>::clone() }",
    "fn f(thing: &dyn crate::X::Thing) {}",
    "fn f<T: crate::X::Thing>() {}",
    "fn f(n: u8) -> bool { match n { crate::X::THING => true, _ => false } }",
    "impl crate::X::Thing for u8 {}",
    "struct S { thing: crate::X::Thing }",
    "struct S { #[serde(with = \"crate::X::thing\")] field: u8 }",
    "#[derive(crate::X::Thing)] struct S;",
    "#[crate::X::thing] fn f() {}",
    "fn f() { format!(\"{}\", crate::X::thing()) }",
    "fn f() { vec![Some(super::super::super::X::thing())] }",
    "fn f() { crate::X::thing!() }",
    "macro_rules! m { () => { $crate::X::thing() } }",
    "macro_rules! m { () => { use $crate::{X::Thing}; } }",
    "macro_rules! m { ($x:expr) => { $x + crate::X::thing!() } }",
    "#[cfg(test)] mod tests { use crate::X::Thing; }",
    "#[cfg(test)] mod tests { fn f() { super::super::super::super::X::thing() } }",
];

#[test]
fn every_forbidden_name_is_reported_however_it_is_written() {
    for (layer, others) in MAY_NAME {
        for (other, _) in MAY_NAME.iter().filter(|(other, _)| !["lib", "main"].contains(other)) {
            for way in WAYS_TO_NAME {
                let verdict = verdict(&format!("{layer}/inner/deep.rs"), &way.replace('X', other));
                if other == layer || allows(others, other) {
                    assert!(verdict.is_empty(), "{layer} may name {other}: {way}: {verdict:?}");
                } else {
                    assert_eq!(verdict.len(), 1, "{layer} may not name {other}: {way}: {verdict:?}");
                }
            }
        }
    }
}

/// File, text, and what must be said about it.
#[rustfmt::skip]
const PLANTED: &[(&str, &str, &str)] = &[
    // The picture, line by line.
    ("error.rs", "use crate::input::Raw;", "1: `crate::input::Raw`: error names no other layer"),
    ("input/flags.rs", "\nuse crate::policy::Port;", "2: `crate::policy::Port`: input names only error"),
    ("policy/mod.rs", "use super::rules::RuleSet;", "1: `crate::rules::RuleSet` (as `super::rules::RuleSet`): policy names only error, input"),
    ("rules/compile/classic.rs", "use crate::backend;", "1: `crate::backend`: rules names only error, policy"),
    ("rules.rs", "use crate::input;", "1: `crate::input`: rules names only error, policy"),
    ("eval/mod.rs", "use crate::backend::Plan;", "1: `crate::backend::Plan`: eval names only error, policy, rules"),
    ("backend/plan.rs", "use crate::{\n    eval,\n    host::observe,\n};", "3: `crate::host::observe`: backend names only error, netlink, policy, rules, eval"),
    ("cni/decide.rs", "use crate::rules;", "1: `crate::rules`: cni names only error, input, policy"),
    ("sys/exec.rs", "use crate::policy::Uid;", "1: `crate::policy::Uid`: sys names only error, netlink"),
    ("netlink.rs", "use crate::error::Class;", "1: `crate::error::Class`: netlink names no other layer"),
    ("host/apply.rs", "use crate::report::text;", "1: `crate::report::text`: host names only error, policy, rules, eval, backend, cni, sys"),
    ("report/text.rs", "use crate::sys::fs;", "1: `crate::sys::fs`: report names only error, input, policy, rules, eval, backend, cni"),
    ("cli.rs", "use crate::run;", "1: `crate::run`: cli names only error, input"),
    ("rules/mod.rs", "use crate::VERSION;", "1: `crate::VERSION`: rules names only error, policy"),
    // Every layer at once, or under another name.
    ("eval/mod.rs", "use crate::*;", "1: `crate`, the whole crate: eval names only error, policy, rules"),
    ("eval/mod.rs", "use super::*;", "1: `crate` (as `super`), the whole crate: eval names only error, policy, rules"),
    ("eval/mod.rs", "use mesh_init as all;", "1: `crate` (as `mesh_init`), the whole crate: eval names only error, policy, rules"),
    ("eval/mod.rs", "extern crate self as all;", "1: `crate`, the whole crate: eval names only error, policy, rules"),
    ("main.rs", "#[path = \"other.rs\"] mod this;", "1: `#[path]`: source stands where its module path says"),
    ("main.rs", "include!(\"other.rs\");", "1: `include!`: source stands where its module path says"),
    ("new/mod.rs", "", "0: `new`: no such layer: give it a line in MAY_NAME"),
    // unsafe
    ("host/mod.rs", "fn f() { unsafe { g() } }", "1: `unsafe`: unsafe belongs in sys"),
    ("run/mod.rs", "unsafe fn f() {}", "1: `unsafe`: unsafe belongs in sys"),
    ("lib.rs", "unsafe impl Send for S {}", "1: `unsafe`: unsafe belongs in sys"),
    ("main.rs", "unsafe extern \"C\" {}", "1: `unsafe`: unsafe belongs in sys"),
    ("host/mod.rs", "macro_rules! m {\n() => { unsafe { g() } } }", "2: `unsafe`: unsafe belongs in sys"),
    ("host/mod.rs", "#[cfg(test)] mod tests { fn f() { unsafe { g() } } }", "1: `unsafe`: unsafe belongs in sys"),
    ("lib.rs", "#![allow(unsafe_code)]", "1: `allow(unsafe_code)`: unsafe belongs in sys"),
    ("host/mod.rs", "#[cfg_attr(x, expect(unused, unsafe_code))] fn f() {}", "1: `expect(unsafe_code)`: unsafe belongs in sys"),
    // Effects, one for every line of the table ...
    ("backend/mod.rs", "fn f() { std::env::var(\"A\"); }", "1: `std::env::var`: std::env belongs in sys, run, main"),
    ("run/apply.rs", "fn f() { std::fs::read(\"a\"); }", "1: `std::fs::read`: std::fs belongs in sys"),
    ("cni/mod.rs", "fn f() { std::io::stdin().lock() }", "1: `std::io::stdin`: std::io::stdin belongs in sys, run, main"),
    ("report/text.rs", "fn f() { std::io::stdout().lock() }", "1: `std::io::stdout`: std::io::stdout belongs in sys, run, main"),
    ("report/text.rs", "fn f() { std::io::stderr().lock() }", "1: `std::io::stderr`: std::io::stderr belongs in sys, run, main"),
    ("host/mod.rs", "use std::net::{IpAddr, TcpListener};", "1: `std::net::TcpListener`: std::net::TcpListener belongs in sys"),
    ("host/mod.rs", "fn f() { std::net::TcpStream::connect(a) }", "1: `std::net::TcpStream::connect`: std::net::TcpStream belongs in sys"),
    ("input/mod.rs", "use std::net::ToSocketAddrs as _;", "1: `std::net::ToSocketAddrs`: std::net::ToSocketAddrs belongs in sys"),
    ("host/mod.rs", "type T = std::net::UdpSocket;", "1: `std::net::UdpSocket`: std::net::UdpSocket belongs in sys"),
    ("host/mod.rs", "use std::os::linux::net::SocketAddrExt;", "1: `std::os::linux::net::SocketAddrExt`: std::os::linux belongs in sys"),
    ("host/mod.rs", "use std::os::unix::fs::MetadataExt;", "1: `std::os::unix::fs::MetadataExt`: std::os::unix::fs belongs in sys"),
    ("run/mod.rs", "use std::os::unix::net::UnixStream;", "1: `std::os::unix::net::UnixStream`: std::os::unix::net belongs in sys"),
    ("run/mod.rs", "use std::os::unix::process::CommandExt;", "1: `std::os::unix::process::CommandExt`: std::os::unix::process belongs in sys"),
    ("host/mod.rs", "fn f() { std::process::Command::new(\"a\") }", "1: `std::process::Command::new`: std::process::Command belongs in sys"),
    ("backend/mod.rs", "fn f() { std::thread::spawn(g) }", "1: `std::thread::spawn`: std::thread belongs in sys, host, run"),
    ("eval/mod.rs", "fn f() { std::time::Instant::now() }", "1: `std::time::Instant::now`: std::time::Instant::now belongs in sys, host, run"),
    ("run/mod.rs", "fn f() { std::time::SystemTime::now() }", "1: `std::time::SystemTime::now`: std::time::SystemTime belongs in sys"),
    ("host/mod.rs", "use aya_obj::Object;", "1: `aya_obj::Object`: aya_obj belongs in sys"),
    ("run/mod.rs", "fn f() { caps::read(a) }", "1: `caps::read`: caps belongs in sys"),
    ("backend/mod.rs", "const TCP: i32 = libc::IPPROTO_TCP;", "1: `libc::IPPROTO_TCP`: libc belongs in sys"),
    ("host/mod.rs", "use nix::sched;", "1: `nix::sched`: nix belongs in sys"),
    ("host/mod.rs", "use rtnetlink::Handle;", "1: `rtnetlink::Handle`: rtnetlink belongs in sys"),
    ("run/mod.rs", "use tokio::runtime::Builder;", "1: `tokio::runtime::Builder`: tokio belongs in sys"),
    // ... and the ways to hide one.
    ("host/mod.rs", "use ::nix::sched;\nmod nix {}", "1: `nix::sched` (as `::nix::sched`): nix belongs in sys"),
    ("host/mod.rs", "use nix;", "1: `nix`: nix belongs in sys"),
    ("host/mod.rs", "extern crate nix as other;", "1: `nix`: nix belongs in sys"),
    ("host/mod.rs", "use core::time::Duration;\nuse std::{fs as files, io};", "2: `std::fs`: std::fs belongs in sys"),
    ("host/mod.rs", "use std::process;\nfn f() { process::Command::new(a) }", "2: `std::process::Command::new` (as `process::Command::new`): std::process::Command belongs in sys"),
    ("host/mod.rs", "use std::process::{self};\nfn f() { process::Command::new(a) }", "2: `std::process::Command::new` (as `process::Command::new`): std::process::Command belongs in sys"),
    ("host/mod.rs", "use std as s;\nfn f() { s::fs::read(a) }", "2: `std::fs::read` (as `s::fs::read`): std::fs belongs in sys"),
    ("host/mod.rs", "use std::process as p;\nuse p::Command as C;\nfn f() { C::new() }", "2: `std::process::Command` (as `p::Command`): std::process::Command belongs in sys"),
    ("host/mod.rs", "use std::process;\nmod inner { use super::process::Command; }", "2: `std::process::Command` (as `super::process::Command`): std::process::Command belongs in sys"),
    ("host/mod.rs", "use std::process;\nmod inner { use super::*; fn f() { process::Command::new() } }", "2: `std::process::Command::new` (as `process::Command::new`): std::process::Command belongs in sys"),
    ("host/mod.rs", "use std::net::*;", "1: `std::net`: std::net::TcpListener belongs in sys"),
    ("eval/mod.rs", "use std::time::*;", "1: `std::time`: std::time::Instant::now belongs in sys, host, run"),
    ("eval/mod.rs", "use std::time::Instant;\nfn f() -> Instant { Instant::now() }", "2: `std::time::Instant::now` (as `Instant::now`): std::time::Instant::now belongs in sys, host, run"),
    ("eval/mod.rs", "fn f() { use std::time::Instant as I; I::now() }", "1: `std::time::Instant::now` (as `I::now`): std::time::Instant::now belongs in sys, host, run"),
    ("eval/mod.rs", "fn f() { assert!(std::fs::read(a)) }", "1: `std::fs::read`: std::fs belongs in sys"),
    ("eval/mod.rs", "#[cfg(not(test))] mod m { use std::fs; }", "1: `std::fs`: std::fs belongs in sys"),
    ("eval/mod.rs", "#[cfg(any(test, unix))] mod m { use std::fs; }", "1: `std::fs`: std::fs belongs in sys"),
    ("eval/mod.rs", "#[cfg(test)] mod tests { }\nfn f() { std::fs::read(a) }", "2: `std::fs::read`: std::fs belongs in sys"),
    ("host/mod.rs", "fn f(p: &Path) -> bool { p.exists() }", "1: `.exists()`: effects belong in sys"),
    ("report/mod.rs", "fn f(t: Instant) { format!(\"{:?}\", t.elapsed()) }", "1: `.elapsed()`: effects belong in sys, host, run"),
    // Printing
    ("report/text.rs", "fn f() { println!(\"a\"); }", "1: `println!`: printing belongs in run, main"),
    ("sys/mod.rs", "fn f() { std::eprint!(\"a\"); }", "1: `eprint!`: printing belongs in run, main"),
    ("lib.rs", "macro_rules! m { () => { print!(\"a\") } }", "1: `print!`: printing belongs in run, main"),
    ("host/mod.rs", "fn f() { dbg!(eprintln!(\"a\")) }", "1: `eprintln!`: printing belongs in run, main"),
    ("host/mod.rs", "fn f() { dbg!(1) }", "1: `dbg!`: printing belongs in run, main"),
    // Form
    ("lib.rs", "fn f( }", "1: cannot parse string into token stream: source can be parsed"),
];

#[test]
fn every_planted_violation_is_reported() {
    for (file, text, expected) in PLANTED {
        let verdict = verdict(file, text);
        assert!(verdict.iter().any(|said| said.starts_with(expected)), "{file}: {text}: {verdict:?}");
    }
    for (effect, layers) in EFFECTS {
        let planted =
            PLANTED.iter().any(|(.., expected)| expected.contains(&format!(": {effect} belongs in")));
        assert!(planted, "nothing is planted for {effect}");
        for (layer, _) in MAY_NAME {
            let use_it = verdict(&format!("{layer}.rs"), &format!("fn f() {{ ::{effect}::now(); }}"));
            assert_eq!(use_it.is_empty(), allows(layers, layer), "{effect} in {layer}: {use_it:?}");
        }
    }
    for (method, layers) in EFFECT_METHODS {
        for (layer, _) in MAY_NAME {
            let call = verdict(&format!("{layer}.rs"), &format!("fn f() {{ it.{method}(); }}"));
            assert_eq!(call.is_empty(), allows(layers, layer), "{method} in {layer}: {call:?}");
        }
    }
}

/// Look-alikes about which nothing must be said.
#[rustfmt::skip]
const CLEAN: &[(&str, &str)] = &[
    ("main.rs", "use mesh_init::*;\nfn main() { println!(\"{:?}\", std::env::args()) }"),
    ("lib.rs", "#![deny(unsafe_code)]\npub mod host;\npub mod sys;\npub use host::apply;"),
    ("run/apply.rs", "use crate::{host, sys, report};\nuse std::{env, thread, time::Instant};\nfn f() { eprintln!(\"a\"); std::io::stdout(); Instant::now().elapsed(); }"),
    ("sys/exec.rs", "#![expect(unsafe_code, reason = \"the seam\")]\nuse std::{fs, process::Command, time::SystemTime};\nuse nix::unistd;\nfn f() { unsafe { libc::fork() } }"),
    ("host/mod.rs", "use crate::sys::{self, fs, caps};\nfn f() { fs::read(a); caps::effective(); sys::fs::read(b); std::thread::scope(g); std::time::Instant::now() }"),
    // Words, not paths.
    ("rules/mod.rs", "/// Like [`crate::host`] and `std::fs`.\n// use crate::sys;\nconst A: &str = \"crate::host::apply unsafe println!\";"),
    ("rules/mod.rs", "fn f(host: u8, sys: u8, caps: &[u8]) -> u8 { assert!(host < caps.len(), \"{}\", sys); host.sys(caps) }"),
    ("rules/mod.rs", "#[doc = \"crate::host::apply\"] #[deprecated(note = \"see the host\")] fn println() { writeln!(out, \"a\") }"),
    ("rules/mod.rs", "#[deny(unsafe_code)] #[allow(unused, reason = \"unsafe_code is elsewhere\")] fn f() { let r#unsafe = 1; println(); a != (b) }"),
    ("rules/mod.rs", "const V: &str = env!(\"CARGO_PKG_VERSION\");\nconst T: &str = include_str!(\"a.txt\");"),
    // Names of its own that sound like others'.
    ("rules/mod.rs", "mod host;\nmod caps;\nuse self::host::A;\nuse host::B;\nfn f() { caps::g(); host::h(); crate::rules::host::h(); }"),
    ("rules/compile/mod.rs", "use super::host;\nuse super::super::policy;\nfn f() { host::h() }"),
    ("rules/a.rs", "mod inner { mod std_fs {} use super::super::b; use super::*; pub(in crate::rules) fn f() {} pub(crate) fn g() {} pub(super) fn h() {} }"),
    ("policy/mod.rs", "enum Command { Apply }\nfn f() { Command::Apply; libcx::f(); stdx::fs::f() }"),
    ("policy/mod.rs", "use error::E;\nmod error { }"),
    ("host/mod.rs", "mod process;\nfn f() { use std::process; }\nmod m { use super::process::Command; }"),
    ("rules/a.rs", "pub(in super::super) fn f() { assert!(print != (3), map.exists(1), std::env!(\"A\")) }"),
    // The harmless neighbours of effects.
    ("error.rs", "use std::process::{ExitCode, Termination};\nuse std::net::{IpAddr, SocketAddr};\nuse std::time::{Duration, Instant};\nuse std::os::fd::OwnedFd;\nuse std::io::{self, Read, Write};"),
    ("backend/mod.rs", "use std::process;\nfn f() -> process::ExitCode { map.exists(1); set.elapsed; path.is_absolute() }"),
    // Tests may touch the machine.
    ("eval/mod.rs", "#[cfg(test)]\nmod tests { use super::*; use std::fs; fn f() { fs::read(a); println!(); p.exists() } }"),
    ("eval/mod.rs", "#[cfg(all(test, unix))] use std::fs;\n#[test] fn f() { std::env::var(a); }\nimpl S { #[cfg(test)] fn f() { nix::f() } }"),
    ("eval/tests.rs", "#![cfg(test)]\nuse std::fs;"),
];

#[test]
fn look_alikes_are_clean() {
    for (file, text) in CLEAN {
        let verdict = verdict(file, text);
        assert!(verdict.is_empty(), "{file}: {text}: {verdict:?}");
    }
}

#[test]
fn a_file_has_a_head_and_an_end() {
    let one = |source: String| {
        let verdict = judge(&[("lib.rs".to_owned(), source)]);
        verdict.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let no_head = ["src/lib.rs:1: no head: a file begins with a `//!` line that says what it is for"];
    for headless in [
        "",
        "//!\n",
        "/// Head.\nfn f() {}\n",
        "// Head.\n",
        "fn f() {}\n//! Head.\n".trim_end_matches("//! Head.\n"),
    ] {
        assert_eq!(one(headless.to_owned()), no_head, "{headless}");
    }
    let full = format!("//! Head.\n{}", "//\n".repeat(MAX_LINES - 1));
    let tests = "#[cfg(test)]\nmod tests {\n\n\n}\n";
    assert!(one(full.clone()).is_empty());
    assert!(one(format!("{full}{tests}")).is_empty());
    let too_long = ["src/lib.rs:501: 501 lines: a file has at most 500 lines before its tests"];
    assert_eq!(one(format!("{full}//\n")), too_long);
    assert_eq!(one(format!("{full}//\n{tests}")), too_long);
    assert_eq!(one(format!("{full}mod tests {{}}\n")), too_long);
    assert_eq!(one(format!("{full}{tests}fn f() {{}}\n")).len(), 1);
}

#[test]
fn what_came_through_an_import_is_reported_once() {
    for text in ["use std::fs;\nfn f() { fs::read(a) }", "use crate::host::apply as a;\nfn f() { a::b() }"] {
        assert_eq!(verdict("rules/mod.rs", text).len(), 1, "{text}");
    }
}

#[test]
fn an_import_is_followed_across_files() {
    let files = [
        ("error.rs".to_owned(), "//! Head.\npub use std::process as p;".to_owned()),
        ("rules/mod.rs".to_owned(), "//! Head.\nuse crate::error::p as q;".to_owned()),
        ("rules/deep.rs".to_owned(), "//! Head.\nuse super::q::Command;".to_owned()),
        // Both are the home of a root module.
        ("lib.rs".to_owned(), "//! Head.\nuse std::process as p;\nfn f() { p::Command::new() }".to_owned()),
        ("main.rs".to_owned(), "//! Head.\nuse mesh_init::run as p;".to_owned()),
    ];
    let verdict = judge(&files);
    let said: Vec<_> = verdict.iter().map(ToString::to_string).collect();
    let rule = "std::process::Command belongs in sys";
    let in_lib = format!("src/lib.rs:3: `std::process::Command::new` (as `p::Command::new`): {rule}");
    let in_deep = format!("src/rules/deep.rs:2: `std::process::Command` (as `super::q::Command`): {rule}");
    assert_eq!(said, [in_lib, in_deep]);
}

#[test]
fn a_file_of_tests_is_known_by_its_declaration() {
    let files = |declaration: &str| {
        let parent = ("rules/mod.rs".to_owned(), format!("//! Head.\n{declaration}"));
        let long = "//\n".repeat(MAX_LINES);
        let child = ("rules/tests/deep.rs".to_owned(), format!("//! Head.\nuse std::fs;\n{long}"));
        judge(&[child, parent]).len()
    };
    assert_eq!(files("#[cfg(test)] mod tests;"), 0);
    assert_eq!(files("mod tests;"), 2);
}
