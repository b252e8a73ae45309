//! What is in force: a file, the run-time changes, and what the two make together. These are immutable values: a change makes
//! a new one and leaves the old one as it was, so that a caller that cannot carry the change out still has the old one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    atomic_file,
    by_name::Objects,
    change::{self, Change, Refusal},
    diagnostic::Diagnostic,
    diff::spec_diff,
    document::{self, Document},
    host::{Added, OnHost},
    overlay::{self, Overlay, Stale},
    save::{self, SaveError},
    spec::Spec,
};

/// A file with the run-time changes laid over it.
#[derive(Clone, Debug)]
pub struct Configuration {
    document: Arc<Document>,
    file: Arc<Objects>,
    objects: Objects,
    spec: Spec,
    /// The run-time changes that have an effect.
    overlay: Overlay,
    /// The run-time changes that have no effect.
    stale: Vec<Stale>,
}

/// A change that fits.
#[derive(Clone, Debug)]
pub struct Changed {
    pub configuration: Configuration,
    /// What the change does, one sentence each; empty = everything was so already.
    pub summary: Vec<String>,
}

impl Configuration {
    /// Reads a file and the run-time changes of that instance.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with either file.
    pub fn load(path: &Path, instance: &str) -> Result<Self, Vec<Diagnostic>> {
        let document = document::parse(&document::read_trusted(path)?, &path.display().to_string())?;
        let overlay = overlay::load(&overlay::path(&document.spec.node.state_directory, instance))
            .map_err(|error| vec![error])?;
        Ok(Self::new(document, &overlay))
    }

    /// Lays an overlay over a file. Entries that do not fit the file have no effect; [`Self::stale`] returns them.
    pub fn new(document: Document, overlay: &Overlay) -> Self {
        Self::of(Arc::new(document), overlay)
    }

    fn of(document: Arc<Document>, overlay: &Overlay) -> Self {
        let file = Arc::new(Objects::from_tree(&document.tree));
        let laid = overlay::lay_over(&file, &document.spec, overlay);
        let overlay = overlay::difference((&file, &document.spec), (&laid.objects, &laid.spec));
        Self { document, file, objects: laid.objects, spec: laid.spec, overlay, stale: laid.stale }
    }

    /// The same run-time changes over another file, or over a newer version of the file.
    pub fn with_document(&self, document: Document) -> Self {
        Self::new(document, &self.to_store())
    }

    /// The file alone: what `config revert` leaves.
    pub fn reverted(&self) -> Self {
        Self::of(self.document.clone(), &Overlay::default())
    }

    /// File and run-time changes together: what should be in force.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The file.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The number of run-time changes that are not in the file, including those without effect.
    pub fn overlay_changes(&self) -> usize {
        self.overlay.len() + self.stale.len()
    }

    /// Run-time changes that no longer fit the file, because the file was edited after them. They are kept until the next
    /// change, `save` or `revert`.
    pub fn stale(&self) -> &[Stale] {
        &self.stale
    }

    /// How the run-time changes alter the file, one sentence each.
    pub fn describe(&self) -> Vec<String> {
        let mut sentences = spec_diff(&self.document.spec, &self.spec);
        sentences.extend(self.stale.iter().map(ToString::to_string));
        sentences
    }

    /// Where the run-time changes of an instance are kept.
    pub fn overlay_path(&self, instance: &str) -> PathBuf {
        overlay::path(&self.spec.node.state_directory, instance)
    }

    /// Makes the run-time changes last: [`Self::load`] finds them.
    ///
    /// # Errors
    ///
    /// Any error of the file system; the changes that were stored before are still stored then.
    pub fn store_overlay(&self, instance: &str) -> std::io::Result<()> {
        overlay::store(&self.to_store(), &self.overlay_path(instance))
    }

    fn to_store(&self) -> Overlay {
        let mut all = self.overlay.clone();
        for Stale { key, entry, reason: _ } in &self.stale {
            all.0.entry(key.clone()).or_insert_with(|| entry.clone());
        }
        all
    }

    /// The configuration that a change makes of this one. Nothing is written: on success the caller next calls
    /// [`Self::store_overlay`] of the new one.
    pub fn change(&self, change: &Change) -> Result<Changed, Refusal> {
        self.changed(change, None)
    }

    /// As [`Self::change`]; in addition, the change is refused where the host refuses what it adds.
    pub fn change_on_host(&self, change: &Change, host: &dyn OnHost) -> Result<Changed, Refusal> {
        self.changed(change, Some(&Added { host, in_force: &self.spec }))
    }

    fn changed(&self, change: &Change, host: Option<&dyn OnHost>) -> Result<Changed, Refusal> {
        let (objects, spec) = change::change(&self.document.spec, &self.objects, change, host)?;
        let mut summary = spec_diff(&self.spec, &spec);
        // Drop stale changes: otherwise they would take effect again, by surprise, as soon as something makes room for them.
        summary
            .extend(self.stale.iter().map(|stale| format!("{}: dropped a change without effect", stale.key)));
        let overlay = overlay::difference((&self.file, &self.document.spec), (&objects, &spec));
        // The same values, at places of the overlay: a later error must not name a place in a request that is long gone.
        let objects = overlay::apply_all(&self.file, &overlay).unwrap_or(objects);
        let configuration = Self {
            document: self.document.clone(),
            file: self.file.clone(),
            objects,
            spec,
            overlay,
            stale: Vec::new(),
        };
        Ok(Changed { configuration, summary })
    }

    /// The configuration after the run-time changes are in the file at `path`: the same spec, without run-time changes. Also
    /// returns the text that the file needs for that, with its present comments and order; `None` where the file has that text
    /// already. The caller next writes the text and then calls [`Self::store_overlay`], in this order.
    ///
    /// # Errors
    ///
    /// The file is not as it was read, or the changes do not fit into it.
    pub fn saved(&self, path: &Path) -> Result<(Self, Option<String>), SaveError> {
        let now = document::read(path).map_err(|errors| SaveError::Read { errors })?;
        if now != self.document.text.as_bytes() {
            return Err(SaveError::Conflict { path: path.to_owned() });
        }
        if self.overlay.is_empty() {
            return Ok((self.reverted(), None));
        }
        let text = self.edited().map_err(|why| SaveError::Edit { path: path.to_owned(), why })?;
        let document = document::parse(text.as_bytes(), &self.document.name)
            .map_err(|errors| first_line(&errors))
            .and_then(|document| match spec_diff(&self.spec, &document.spec).into_iter().next() {
                None => Ok(document),
                Some(difference) => Err(difference),
            })
            .map_err(|why| SaveError::Edit { path: path.to_owned(), why })?;
        Ok((Self::new(document, &Overlay::default()), Some(text)))
    }
}

impl Configuration {
    /// The file's text with the run-time changes in it.
    pub(super) fn edited(&self) -> Result<String, String> {
        save::edit(&self.document.text, &self.overlay)
    }
}

fn first_line(errors: &[Diagnostic]) -> String {
    errors.first().map(ToString::to_string).unwrap_or_default()
}

/// Replaces the text of the file, whole or not at all. Owner and mode stay.
pub fn replace_file(path: &Path, text: &[u8]) -> std::io::Result<()> {
    atomic_file::write(path, text, 0o640)
}

#[cfg(test)]
mod tests;
