//! Names of the Hugging Face hub in the place of paths.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Job;
use crate::hub::{self, Event, HubError, Settings, What};

impl Job {
    /// Every path of the job that may be a name of the hub, with what is meant by it.
    fn fetchable(&mut self) -> Vec<(&mut PathBuf, What)> {
        let (model, data) = (&mut self.model, &mut self.data);
        let (mut folders, mut runs) = (vec![], vec![]);
        if let Some(of) = &mut self.checkpoints {
            folders.extend(&mut of.folders);
            runs.extend(&mut of.run);
        }
        runs.extend(self.source.as_mut().map(|source| &mut source.trajectory.path));
        let models = [&mut model.path].into_iter().chain(&mut model.base).chain(&mut model.before).chain(folders);
        let files = [&mut data.train].into_iter().chain(data.stages.values_mut());
        let files = files.chain(&mut data.queries).chain(&mut data.eval);
        let mut all: Vec<(&mut PathBuf, What)> = vec![];
        all.extend(models.map(|path| (path, What::Model)));
        all.extend(runs.into_iter().map(|path| (path, What::Run)));
        all.extend(data.tokenizer.iter_mut().map(|path| (path, What::Tokenizer)));
        all.extend(data.image_processor.iter_mut().map(|path| (path, What::ImageProcessor)));
        all.extend(data.chat_template.iter_mut().map(|path| (path, What::ChatTemplate)));
        all.extend(files.map(|path| (path, What::File)));
        all
    }

    /// Whether a path of the job is a name of the hub.
    pub fn names_the_hub(&mut self) -> bool {
        self.fetchable().iter().any(|(path, _)| hub::is_name(path))
    }

    /// Puts what the hub's cache has in the place of each name of the hub, and fetches what it has not. No other path is
    /// touched, and without such a name no connection is opened. A name that `hub` holds to a commit is that commit;
    /// afterwards `hub` has the commit of every name.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn fetch(&mut self, settings: &Settings, tell: &mut dyn FnMut(&Event<'_>)) -> Result<(), HubError> {
        let (pins, mut found, mut names) = (self.hub.clone(), BTreeMap::new(), BTreeMap::new());
        for (path, what) in self.fetchable() {
            let Some(name) = path.to_str().filter(|_| hub::is_name(path)).map(str::to_owned) else { continue };
            let (fetched, pin) = what.get(&name, pins.get(&name), settings, tell)?;
            found.extend(pin.map(|pin| (name.clone(), pin)));
            names.insert(fetched.clone(), name);
            *path = fetched;
        }
        (self.hub, self.names) = (found, names);
        Ok(())
    }

    /// Puts what the hub's cache has whole in the place of each name that `hub` holds to a commit. Other names stay, and
    /// no connection is opened.
    pub fn find_in_cache(&mut self, settings: &Settings) {
        let pins = self.hub.clone();
        for (path, what) in self.fetchable() {
            let pin = path.to_str().and_then(|name| Some((name, pins.get(name)?)));
            if let Some(found) = pin.and_then(|(name, pin)| what.find(name, pin, settings)) {
                *path = found;
            }
        }
    }

    /// The job as it was asked for: with the names of the hub that [`fetch`](Self::fetch) put paths in the place of.
    pub fn as_asked(&self) -> Self {
        let mut job = self.clone();
        for (path, _) in job.fetchable() {
            if let Some(name) = self.names.get(path) {
                *path = name.into();
            }
        }
        job.names.clear();
        job
    }

    /// Which commit of the hub each path is that lies in the hub's cache.
    pub(in crate::job) fn commits(&self) -> Vec<String> {
        let (model, data) = (&self.model, &self.data);
        let some = |path: &Option<PathBuf>| path.clone().into_iter().collect();
        let of_checkpoints = self.checkpoints.as_ref();
        let folders = of_checkpoints.map(|of| of.folders.clone()).unwrap_or_default();
        let runs = of_checkpoints.and_then(|of| of.run.clone());
        let runs = runs.into_iter().chain(self.source.iter().map(|source| source.trajectory.path.clone())).collect();
        let of: [(&str, Vec<PathBuf>); 12] = [
            ("the model", vec![model.path.clone()]),
            ("a checkpoint", folders),
            ("the training run", runs),
            ("the base", some(&model.base)),
            ("the checkpoint before", some(&model.before)),
            ("the tokenizer", some(&data.tokenizer)),
            ("the image processor", some(&data.image_processor)),
            ("the chat template", some(&data.chat_template)),
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
