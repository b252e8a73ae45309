//! The configuration in force: the file, the run-time changes of it, and the files that keep both. A change is first a
//! [`Candidate`], which has no side effect; committing the candidate writes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use siphasher::sip::SipHasher13;

use super::{clock, restart::needs_restart};
use crate::{
    api::{
        request::Request,
        view::{self, ApiError, Code},
    },
    config::{
        self, Change, Changed, Configuration, Diagnostic, Kind, Place, Refusal, SaveError,
        commit_confirm::{self, Unconfirmed},
        kept, replace_file,
        spec::Spec,
        spec_diff,
        words::plural,
    },
    host::{self, ThisHost, Unfit},
    net::{link, source},
    printable::printable,
};

/// A configuration that may come into force.
pub(super) struct Candidate {
    pub(super) wanted: DesiredConfig,
    /// What the candidate changes, one sentence each.
    pub(super) summary: Vec<String>,
    configuration: Configuration,
    /// A text that takes the file's place.
    text: Option<String>,
    /// The candidate has been read from the file, or is to be written there.
    of_the_file: bool,
    /// The backend of the change, where it is about one backend.
    pub(super) backend: Option<Concerned>,
}

/// A backend that a change is about.
pub(super) struct Concerned {
    pub(super) service: String,
    pub(super) backend: String,
    /// Make the change even if it leaves the service without a usable backend.
    pub(super) force: bool,
}

/// The configuration that is to be in force.
#[derive(Clone)]
pub(super) struct DesiredConfig {
    pub(super) spec: Arc<Spec>,
    /// A fingerprint of the configuration, which the tables keep, too.
    pub(super) fingerprint: u64,
}

impl DesiredConfig {
    fn of(configuration: &Configuration) -> Self {
        let spec = configuration.spec();
        let fingerprint = SipHasher13::new().hash(config::render(spec).as_bytes());
        Self { spec: Arc::new(spec.clone()), fingerprint }
    }
}

/// The configuration in force and where it is kept.
pub(super) struct ConfigStore {
    path: PathBuf,
    file: String,
    instance: String,
    configuration: Configuration,
    wanted: DesiredConfig,
    /// What was in force when the agent started.
    started: Arc<Spec>,
    /// The configuration in force waits for its confirmation.
    unconfirmed: Option<Unconfirmed>,
    rolled_back_at_start: bool,
    /// The file was refused at the start: the reason, and what is in force instead.
    fallback: Option<String>,
}

impl ConfigStore {
    /// Reads the file and the overlay of the instance.
    ///
    /// # Errors
    /// Everything that is wrong with either file, a line each.
    pub(super) fn open(path: &Path, instance: &str) -> Result<Self, Vec<String>> {
        let (unconfirmed, rolled_back_at_start) = waiting(path, instance).map_err(|errors| lines(&errors))?;
        let (configuration, fallback) = load(path, instance)?;
        for stale in configuration.stale() {
            log::warn!("{}", printable(&stale.to_string()));
        }
        let file = path.display().to_string();
        let wanted = DesiredConfig::of(&configuration);
        Ok(Self {
            path: path.to_owned(),
            file,
            instance: instance.to_owned(),
            configuration,
            started: wanted.spec.clone(),
            wanted,
            unconfirmed,
            rolled_back_at_start,
            fallback,
        })
    }

    pub(super) fn spec(&self) -> Arc<Spec> {
        self.wanted.spec.clone()
    }

    /// Why a configuration other than the file's is in force since the start.
    pub(super) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Whether a configuration of this file was in force before. Then a start is not a first attempt, but the way back
    /// to forwarding.
    pub(super) fn was_in_force(&self) -> bool {
        kept::was_in_force(&self.spec().node.state_directory, &self.instance, &self.path)
    }

    /// Keeps the text in force for a start at which the file is refused. A text that waits for its confirmation is not
    /// kept.
    pub(super) fn keep(&self) {
        if self.fallback.is_some() || self.unconfirmed.is_some() {
            return;
        }
        let state = &self.spec().node.state_directory;
        let text = &self.configuration.document().text;
        if let Err(error) = kept::store(state, &self.instance, &self.path, text) {
            log::warn!(
                "{}: what is in force cannot be kept there for a start whose file is refused: {error}",
                state.display()
            );
        }
    }

    /// What is in force, for planning.
    pub(super) fn desired(&self) -> DesiredConfig {
        self.wanted.clone()
    }

    /// The file's name.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn overlay_changes(&self) -> usize {
        self.configuration.overlay_changes()
    }

    /// The configuration in force; with the seed only if the client asks for `secrets`.
    pub(super) fn view(&self, secrets: bool, now_ms: u64) -> view::Config {
        let render = if secrets { config::render } else { config::render_masked };
        view::Config {
            file: self.file.clone(),
            text: render(&self.wanted.spec),
            rolls_back_in: self.rolls_back_in(now_ms),
        }
    }

    /// What a rollback goes back to, while the configuration in force waits for its confirmation.
    pub(super) fn unconfirmed(&self) -> Option<&Unconfirmed> {
        self.unconfirmed.as_ref()
    }

    /// Seconds until the agent rolls back the configuration in force; `None` = it is confirmed.
    pub(super) fn rolls_back_in(&self, now_ms: u64) -> Option<u64> {
        let unconfirmed = self.unconfirmed.as_ref()?;
        Some(unconfirmed.deadline_ms().saturating_sub(now_ms).div_ceil(1000))
    }

    /// The agent before us ended before a confirmation came, and the time for it was over.
    pub(super) fn rolled_back_at_start(&self) -> Option<String> {
        let message = || format!("the configuration was not confirmed in time; {}", self.kept_rejected());
        self.rolled_back_at_start.then(message)
    }

    pub(super) fn kept_rejected(&self) -> String {
        format!("the other one is kept in {}", commit_confirm::rejected(&self.path).display())
    }

    /// Keeps the configuration in force as the one to go back to at the deadline; if one is kept already, only the
    /// deadline changes.
    pub(super) fn wait_for_confirmation(&mut self, deadline_ms: u64) -> Result<(), ApiError> {
        let place = self.unconfirmed_path();
        let (text, state) = (&self.configuration.document().text, &self.spec().node.state_directory);
        let unconfirmed = match &self.unconfirmed {
            Some(waiting) => Ok(waiting.until(deadline_ms)),
            None => Unconfirmed::new(text, state, &self.instance, deadline_ms),
        };
        let stored = unconfirmed.and_then(|unconfirmed| unconfirmed.store(&place).map(|()| unconfirmed));
        self.unconfirmed = Some(stored.map_err(unwritten(place.display().to_string()))?);
        Ok(())
    }

    /// Confirms the configuration in force: it stays.
    pub(super) fn confirmed(&mut self) -> Result<(), ApiError> {
        let place = self.unconfirmed_path();
        Unconfirmed::remove(&place).map_err(unwritten(place.display().to_string()))?;
        self.unconfirmed = None;
        self.keep();
        Ok(())
    }

    /// Delays the rollback: the agent tries it again later.
    pub(super) fn put_off(&mut self, deadline_ms: u64) {
        self.unconfirmed = self.unconfirmed.as_ref().map(|waiting| waiting.until(deadline_ms));
    }

    /// File and run-time changes as they were, written back to their places.
    pub(super) fn rolled_back(&self) -> Result<Candidate, ApiError> {
        if let Some(unconfirmed) = &self.unconfirmed {
            let put_back =
                unconfirmed.put_back(&self.path, &self.spec().node.state_directory, &self.instance);
            put_back.map_err(unwritten(self.file.clone()))?;
        }
        let configuration = Configuration::load(&self.path, &self.instance).map_err(|errors| {
            let message = "the configuration before is refused now; the one in force goes on".to_owned();
            error(Code::Invalid, &self.file, message, lines(&errors))
        })?;
        let summary = spec_diff(&self.wanted.spec, configuration.spec());
        Ok(Self::of(configuration, summary))
    }

    fn unconfirmed_path(&self) -> PathBuf {
        commit_confirm::path(&self.spec().node.state_directory, &self.instance)
    }

    /// Settings that differ from those at the agent's start, and that the agent adopts when it starts again.
    pub(super) fn needs_restart(&self) -> Vec<String> {
        needs_restart(&self.started, &self.wanted.spec).into_iter().map(str::to_owned).collect()
    }

    /// The properties of this host, for a configuration that is to come into force here.
    fn host<'a>(
        &self,
        interface_exists: &'a dyn Fn(&str) -> bool,
        state_directory: &'a dyn Fn(&Path) -> Result<(), String>,
    ) -> ThisHost<'a> {
        let (listens, agent) = (self.started.node.metrics, Some(std::process::id()));
        ThisHost { interface_exists, state_directory, command: &|_, _| Vec::new(), listens, agent }
    }

    /// What is wrong with a text, on this host.
    pub(super) fn check(&self, text: &str, name: &str) -> view::Checked {
        let exists = |interface: &str| link::index_of(interface).is_some();
        let spec = self.spec();
        // About other directories, a client must not learn anything that it could not see itself.
        let ours = |path: &Path| {
            if path == spec.node.state_directory { host::state_directory(path) } else { Ok(()) }
        };
        let checked = config::parse_on_host(text.as_bytes(), name, &self.host(&exists, &ours));
        let (errors, warnings) = match checked {
            Ok(document) => (Vec::new(), config::advice(&document.spec, &source::towards)),
            Err(errors) => (lines(&errors), Vec::new()),
        };
        view::Checked { ok: errors.is_empty(), errors, warnings }
    }

    pub(super) fn diff(&self) -> view::Diff {
        let file = match self.read() {
            Ok(document) => spec_diff(&self.configuration.document().spec, &document.spec),
            Err(errors) => lines(&errors),
        };
        view::Diff { overlay: self.configuration.describe(), file, needs_restart: self.needs_restart() }
    }

    /// The configuration after a request to change a service or a backend.
    pub(super) fn candidate(&self, request: &Request) -> Result<Candidate, ApiError> {
        let mut concerned = None;
        let mut concern = |service: &str, backend: &str, force| {
            let (service, backend) = (service.to_owned(), backend.to_owned());
            concerned = Some(Concerned { service, backend, force });
        };
        let change = match request.clone() {
            Request::ServiceAdd { body } => Change::ServiceAdd { body },
            Request::ServiceSet { service, body } => Change::ServiceSet { service, body },
            Request::ServiceRemove { service } => Change::ServiceRemove { service },
            Request::BackendAdd { service, body } => Change::BackendAdd { service, body },
            Request::BackendSet { service, backend, body, force } => {
                concern(&service, &backend, force);
                Change::BackendSet { service, backend, body }
            }
            Request::BackendRemove { service, backend, force } => {
                concern(&service, &backend, force);
                Change::BackendRemove { service, backend }
            }
            other => {
                let message = format!("{other:?} changes no service and no backend");
                return Err(error(Code::BadRequest, "", message, Vec::new()));
            }
        };
        let host = self.host(&|_| true, &|_| Ok(()));
        let Changed { configuration, summary } =
            self.configuration.change_on_host(&change, &host).map_err(|refusal| refused(&refusal))?;
        Ok(Candidate { backend: concerned, ..Self::of(configuration, summary) })
    }

    /// The file as it is now, or `replacement` (text and name for messages) in its place.
    pub(super) fn reloaded(&self, replacement: Option<&(String, String)>) -> Result<Candidate, ApiError> {
        // An interface that we have may be gone for a while. A new interface that does not exist is a typing error, and
        // would take the program off the interface that was meant.
        let spec = self.spec();
        let exists = |interface: &str| {
            spec.node.interfaces.iter().any(|known| known == interface) || link::index_of(interface).is_some()
        };
        // The agent writes there as root, so only those who may write its file decide where that is, and what is run.
        let ours = |path: &Path| {
            if path == spec.node.state_directory {
                return host::state_directory(path);
            }
            let (there, file) = (spec.node.state_directory.display(), &self.file);
            Err(format!(
                "cannot be changed over the socket (it is {there}): write it into {file} and apply that"
            ))
        };
        let document = match replacement {
            None => {
                let host = ThisHost { command: &host::command, ..self.host(&exists, &host::state_directory) };
                config::read(&self.path).and_then(|text| config::parse_on_host(&text, &self.file, &host))
            }
            Some((text, name)) => {
                let command = &|words: &[String], user: &str| config::host::only_of(&spec, words, user);
                let host = ThisHost { command, ..self.host(&exists, &ours) };
                config::parse_on_host(text.as_bytes(), name, &host)
            }
        };
        let invalid = |details| {
            let message = "the configuration is refused; what ran before goes on".to_owned();
            error(Code::Invalid, &self.file, message, details)
        };
        let mut document = document.map_err(|errors| invalid(lines(&errors)))?;
        document.name = self.file.clone().into();
        let configuration = self.configuration.with_document(document);
        let summary = spec_diff(&self.wanted.spec, configuration.spec());
        let text = replacement.map(|(text, _)| text.clone());
        Ok(Candidate { text, of_the_file: true, ..Self::of(configuration, summary) })
    }

    /// The overlay written into the file; the configuration in force stays the same.
    pub(super) fn saved(&self) -> Result<Candidate, ApiError> {
        let changes = self.overlay_changes();
        let (configuration, text) = self.configuration.saved(&self.path).map_err(|why| {
            let code = match why {
                SaveError::Conflict { .. } => Code::Conflict,
                _ => Code::Failed,
            };
            error(code, &self.file, why.to_string(), Vec::new())
        })?;
        let summary = match changes {
            0 => Vec::new(),
            n => vec![format!(
                "{} written into {}",
                plural(n as u64, "run-time change", "run-time changes"),
                self.file
            )],
        };
        Ok(Candidate { text, ..Self::of(configuration, summary) })
    }

    /// The configuration of the file alone.
    pub(super) fn reverted(&self) -> Result<Candidate, ApiError> {
        let configuration = self.configuration.reverted();
        let summary = spec_diff(&self.wanted.spec, configuration.spec());
        Ok(Self::of(configuration, summary))
    }

    /// Makes a candidate permanent, and makes it the configuration in force.
    pub(super) fn commit(&mut self, candidate: Candidate) -> Result<(), ApiError> {
        let Candidate { wanted, summary: _, configuration, text, of_the_file, backend: _ } = candidate;
        let overlay = configuration.overlay_path(&self.instance).display().to_string();
        // The file first: the run-time changes to keep may lack what the new file says itself. Over the new file, the
        // old run-time changes say the same as the new ones; over the old file, the new ones do not.
        let before = match &text {
            None => None,
            Some(text) => {
                let before = fs::read(&self.path);
                replace_file(&self.path, text.as_bytes()).map_err(unwritten(self.file.clone()))?;
                before.ok()
            }
        };
        if let Err(why) = configuration.store_overlay(&self.instance) {
            let put_back = before.map_or(Ok(()), |before| replace_file(&self.path, &before));
            let error = unwritten(overlay)(why);
            return Err(match put_back {
                Ok(()) => error,
                Err(why) => {
                    let way_out = format!("nor can {} be put back as it was: {why}", self.file);
                    let message = error.message.replace("nothing was changed", &way_out);
                    ApiError { message, ..error }
                }
            });
        }
        self.configuration = configuration;
        self.wanted = wanted;
        if of_the_file {
            self.fallback = None;
        }
        self.keep();
        Ok(())
    }

    fn of(configuration: Configuration, summary: Vec<String>) -> Candidate {
        let wanted = DesiredConfig::of(&configuration);
        Candidate { wanted, summary, configuration, text: None, of_the_file: false, backend: None }
    }

    fn read(&self) -> Result<config::Document, Vec<Diagnostic>> {
        config::parse(&config::read(&self.path)?, &self.file)
    }
}

/// The file with the run-time changes; if it is refused, what was in force last, and the reason.
fn load(path: &Path, instance: &str) -> Result<(Configuration, Option<String>), Vec<String>> {
    let errors = match Configuration::load(path, instance) {
        Ok(configuration) => return Ok((configuration, None)),
        Err(errors) => lines(&errors),
    };
    let Some((kept, configuration)) = kept::load(path, instance) else { return Err(errors) };
    let more = match errors.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let first = errors.first().map_or("", String::as_str);
    let why = format!(
        "the file is refused, and what was in force last is used ({}): {first}{more}; mend the file, then `lbctl config apply`",
        kept.display()
    );
    Ok((configuration, Some(why)))
}

/// What waits for its confirmation at the start of an agent, and whether it waited too long: then it is rolled back
/// here.
fn waiting(path: &Path, instance: &str) -> Result<(Option<Unconfirmed>, bool), Vec<Diagnostic>> {
    // A file that does not parse names no state directory, so nothing can be waiting; loading the file reports what is
    // wrong.
    let Ok(document) = config::read(path).and_then(|text| config::parse(&text, &path.display().to_string()))
    else {
        return Ok((None, false));
    };
    let state = &document.spec.node.state_directory;
    match host::fit(state) {
        Ok(()) => {}
        Err(Unfit::ReadOnly(why)) => {
            log::warn!("node: state_directory {why}; changes at run time will be refused");
        }
        Err(Unfit::Wrong(why)) => {
            let (place, object) = (Place::File(path.display().to_string().into()), "node".to_owned());
            let message = format!("state_directory {why}");
            return Err(vec![Diagnostic { place, object, message, kind: Kind::Wrong }]);
        }
    }
    let place = commit_confirm::path(state, instance);
    let Some(unconfirmed) = Unconfirmed::load(&place).map_err(|error| vec![error])? else {
        return Ok((None, false));
    };
    if !unconfirmed.is_over(clock::milliseconds()) {
        return Ok((Some(unconfirmed), false));
    }
    let put_back = unconfirmed.put_back(path, state, instance).and_then(|()| Unconfirmed::remove(&place));
    put_back.map_err(|error| {
        let message = format!(
            "this configuration was not confirmed in time, and the one before cannot be put back: {error}"
        );
        let place = Place::File(path.display().to_string().into());
        vec![Diagnostic { place, object: String::new(), message, kind: Kind::Unreadable }]
    })?;
    log::warn!("the configuration was not confirmed in time: back to the one before");
    Ok((None, true))
}

fn unwritten(what: String) -> impl Fn(std::io::Error) -> ApiError {
    move |why| {
        let message = format!("{what} cannot be written: {why}; nothing was changed");
        error(Code::Failed, &what, message, Vec::new())
    }
}

fn lines(errors: &[Diagnostic]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn error(code: Code, object: &str, message: String, details: Vec<String>) -> ApiError {
    ApiError { code, message, object: object.to_owned(), details }
}

fn refused(refusal: &Refusal) -> ApiError {
    let code = match refusal {
        Refusal::NotFound { .. } => Code::NotFound,
        Refusal::Conflict { .. } => Code::Conflict,
        Refusal::Invalid(_) if refusal.is_limit() => Code::LimitExceeded,
        Refusal::Invalid(_) => Code::Invalid,
    };
    error(code, refusal.object(), refusal.to_string(), refusal.details())
}
