//! Names of the Hugging Face hub in the place of paths.

use std::path::PathBuf;

use super::Job;
use crate::hub::{self, Event, HubError, Settings};

/// What fetches a name.
type Fetch = fn(&str, &Settings, &mut dyn FnMut(&Event<'_>)) -> Result<PathBuf, HubError>;

impl Job {
    /// Every path of the job that may be a name of the hub, with what fetches it: models, tokenizers, files of data.
    fn fetchable(&mut self) -> Vec<(&mut PathBuf, Fetch)> {
        let (model, data) = (&mut self.model, &mut self.data);
        let folders = self.checkpoints.iter_mut().flat_map(|of| &mut of.folders);
        let models = [&mut model.path].into_iter().chain(&mut model.base).chain(folders);
        let files = [&mut data.train].into_iter().chain(data.stages.values_mut());
        let files = files.chain(&mut data.queries).chain(&mut data.eval);
        let models = models.map(|path| (path, hub::model as Fetch));
        let tokenizers = data.tokenizer.iter_mut().map(|path| (path, hub::tokenizer as Fetch));
        models.chain(tokenizers).chain(files.map(|path| (path, hub::file as Fetch))).collect()
    }

    /// Whether a path of the job is a name of the hub.
    pub fn names_the_hub(&mut self) -> bool {
        self.fetchable().iter().any(|(path, _)| hub::is_name(path))
    }

    /// Puts what the hub's cache has in the place of each name of the hub, and fetches what it has not. No other path is
    /// touched, and without such a name no connection is opened.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn fetch(&mut self, settings: &Settings, tell: &mut dyn FnMut(&Event<'_>)) -> Result<(), HubError> {
        for (path, fetch) in self.fetchable() {
            if let Some(name) = path.to_str().filter(|_| hub::is_name(path)) {
                *path = fetch(name, settings, tell)?;
            }
        }
        Ok(())
    }

    /// Which commit of the hub each path is that lies in the hub's cache.
    pub(in crate::job) fn commits(&self) -> Vec<String> {
        let (model, data) = (&self.model, &self.data);
        let some = |path: &Option<PathBuf>| path.clone().into_iter().collect();
        let folders = self.checkpoints.iter().flat_map(|of| of.folders.clone()).collect();
        let of: [(&str, Vec<PathBuf>); 8] = [
            ("the model", vec![model.path.clone()]),
            ("a checkpoint", folders),
            ("the base", some(&model.base)),
            ("the tokenizer", some(&data.tokenizer)),
            ("the training examples", vec![data.train.clone()]),
            ("training examples of a stage", data.stages.values().cloned().collect()),
            ("the queries", some(&data.queries)),
            ("the evaluation set", some(&data.eval)),
        ];
        let said = |what: &str, path: &PathBuf| {
            let (repository, commit) = hub::of_snapshot(path)?;
            Some(format!("{what}: `{repository}` of the hub at commit {commit}"))
        };
        of.iter().flat_map(|(what, paths)| paths.iter().filter_map(|path| said(what, path))).collect()
    }
}
