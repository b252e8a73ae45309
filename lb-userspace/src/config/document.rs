//! A configuration file: read, parsed, checked, and kept as it is so that it can be edited later.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use toml::de::DeTable;

use super::{
    check::{self, Outside},
    diagnostic::{self, Diagnostic, Kind, Place},
    host::OnHost,
    positions::Positions,
    spec::Spec,
    trust,
    value_tree::{Node, quote},
};

/// The largest file that is read, in bytes: 4 MiB. 40,000 backends fit.
pub const LONGEST: usize = 4 << 20;

/// A file that has passed every check.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file's name in messages.
    pub name: Arc<str>,
    /// The text that was read.
    pub text: String,
    /// What the text says.
    pub spec: Spec,
    pub(super) tree: Node,
}

/// Parses and checks a text. Messages call it `name`.
///
/// # Errors
///
/// All errors, in the order of lines.
pub fn parse(text: &[u8], name: &str) -> Result<Document, Vec<Diagnostic>> {
    parse_outside(text, name, Outside::default())
}

/// As [`parse`]; in addition, what the host refuses is an error (an interface that the host does not have, for example).
pub fn parse_on_host(text: &[u8], name: &str, host: &dyn OnHost) -> Result<Document, Vec<Diagnostic>> {
    parse_outside(text, name, Outside { host: Some(host) })
}

/// The bytes of a file, for [`parse`]; at most one byte more than [`LONGEST`], and [`parse`] refuses such a text.
pub fn read(path: &Path) -> Result<Vec<u8>, Vec<Diagnostic>> {
    open(path).and_then(|file| bytes(path, file))
}

/// As [`read`], for a file that is to come into force: a file that every user may change is refused.
pub fn read_trusted(path: &Path) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let file = open(path)?;
    match trust::refusal(path, &file) {
        Ok(None) => bytes(path, file),
        Ok(Some(why)) => Err(vec![unreadable(Place::File(path.display().to_string().into()), why)]),
        Err(error) => Err(not_read(path, &error)),
    }
}

fn open(path: &Path) -> Result<File, Vec<Diagnostic>> {
    File::open(path).map_err(|error| not_read(path, &error))
}

fn bytes(path: &Path, file: File) -> Result<Vec<u8>, Vec<Diagnostic>> {
    let mut bytes = Vec::new();
    let read = file.take(LONGEST as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| not_read(path, &error))?;
    Ok(bytes)
}

fn not_read(path: &Path, error: &std::io::Error) -> Vec<Diagnostic> {
    let name: Arc<str> = path.display().to_string().into();
    let way_out = match error.kind() {
        std::io::ErrorKind::NotFound => "; write it, or name another with --config",
        _ => "",
    };
    vec![unreadable(Place::File(name), format!("cannot read the configuration: {error}{way_out}"))]
}

fn parse_outside(text: &[u8], name: &str, outside: Outside<'_>) -> Result<Document, Vec<Diagnostic>> {
    let name: Arc<str> = name.into();
    let text = decode(text, &name).map_err(|error| vec![error])?;
    let positions = Positions::new(name.clone(), text);
    let (table, syntax) = DeTable::parse_recoverable(text);
    if syntax.is_empty() && table.get_ref().is_empty() {
        return Err(vec![unreadable(Place::File(name), EMPTY.to_owned())]);
    }
    let tree = Node::from_toml(table, &positions);
    let syntax: Vec<SyntaxError> =
        syntax.iter().map(|error| SyntaxError::new(error, text, &positions)).collect();
    match check::check(&tree, outside) {
        Ok(spec) if syntax.is_empty() => Ok(Document { name, text: text.to_owned(), spec, tree }),
        Ok(_) => Err(next_to_syntax_errors(syntax, Vec::new())),
        Err(more) => Err(next_to_syntax_errors(syntax, more)),
    }
}

const EMPTY: &str = "the file is empty; the least it can say is:

[node]
interface = \"eth0\"
seed = \"…\" # the output of openssl rand -hex 16, the same on every node of a site
";

fn unreadable(place: Place, message: String) -> Diagnostic {
    Diagnostic { place, object: String::new(), message, kind: Kind::Unreadable }
}

fn decode<'a>(text: &'a [u8], name: &Arc<str>) -> Result<&'a str, Diagnostic> {
    if text.len() > LONGEST {
        let mib = LONGEST >> 20;
        let message = format!(
            "the file is longer than {mib} MiB, the most that is read: split the services over nodes"
        );
        return Err(unreadable(Place::File(name.clone()), message));
    }
    std::str::from_utf8(text).map_err(|error| {
        let offset = error.valid_up_to();
        let valid = text.get(..offset).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or_default();
        let place = Positions::new(name.clone(), valid).at(offset);
        let byte = text.get(offset).copied().unwrap_or_default();
        let message = format!(
            "the file is not UTF-8: byte 0x{byte:02x} at offset {offset}; save it as UTF-8, for example with iconv"
        );
        unreadable(place, message)
    })
}

/// An error that the TOML parser reports, and recovers from.
struct SyntaxError {
    diagnostic: Diagnostic,
    reach: Reach,
}

/// How much of the text the parser reads wrongly because of an error.
#[derive(PartialEq, Eq)]
enum Reach {
    /// A value at most: the rest of the text is read as it is written.
    Value,
    /// Perhaps all that follows.
    Rest,
}

impl SyntaxError {
    fn new(error: &toml::de::Error, text: &str, positions: &Positions<'_>) -> Self {
        let span = error.span().unwrap_or(0..0);
        let found = text.get(span.clone()).unwrap_or_default();
        let (reach, message) = match error.message() {
            "duplicate key" => (Reach::Value, format!("{} is given twice: keep one", quote(found))),
            message if message.starts_with(UNQUOTED) && found.is_empty() => {
                (Reach::Value, "the value is missing".to_owned())
            }
            message if message.starts_with(UNQUOTED) => {
                // Messages must not repeat the seed.
                let what = if is_seed(text, span.start) { "seed".to_owned() } else { quote(found) };
                (Reach::Value, format!("{what} is not a valid value: put strings in quotes, \"like this\""))
            }
            message => (Reach::Rest, format!("not valid TOML: {message}")),
        };
        Self { diagnostic: unreadable(positions.at(span.start), message), reach }
    }
}

/// Whether the value that begins at a byte offset is the seed.
fn is_seed(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    line.split_once('=').is_some_and(|(key, _)| key.trim().trim_matches(['"', '\'']).ends_with("seed"))
}

const UNQUOTED: &str = "string values must be quoted";

/// The parser recovers from syntax errors, and the checker checks what the parser has read. After some syntax errors the
/// parser reads the rest wrongly, and the errors `more` of the checker would mislead: only those are reported that are certain.
fn next_to_syntax_errors(syntax: Vec<SyntaxError>, more: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let certain = syntax.iter().all(|error| error.reach == Reach::Value);
    let mut errors: Vec<Diagnostic> = syntax.into_iter().map(|error| error.diagnostic).collect();
    if certain {
        let line = |diagnostic: &Diagnostic| match diagnostic.place {
            Place::Text { line, .. } => Some(line),
            _ => None,
        };
        let lines: Vec<Option<u32>> = errors.iter().map(line).collect();
        let none = lines.is_empty();
        errors.extend(
            more.into_iter()
                .filter(|more| none || (more.kind != Kind::Missing && !lines.contains(&line(more)))),
        );
    }
    diagnostic::tidy(errors)
}

#[cfg(test)]
mod tests;
