//! Layers whose sums do not fit into memory together: fitted group by group, one pass over the data each, and joined
//! to the artifacts that one pass would leave.

use std::ops::Range;
use std::sync::Arc;

use super::counts::{self, count};
use super::kinds::{Bases, COVARIANCE, LAMBDA};
use super::stored::{data, with_shapes};
use crate::attribution::source::Conditioner;
use crate::attribution::store::{Artifact, Dtype, Key, KeyBuilder, Metadata, TensorSpec};
use crate::curvature::gemm::Products;
use crate::curvature::{
    Counts, CovarianceSum, Error, LambdaSum, LayerSpec, Network, Objective, Positions, Renumbered, TapSink,
};
use crate::data::Batch;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::context::Run;
use crate::job::training::Site;
use crate::job::training::networks::TrackedNetwork;

/// Finished sums of one group, until all groups are joined.
pub(super) const COVARIANCE_GROUP: &str = "covariance-group";
pub(super) const LAMBDA_GROUP: &str = "lambda-group";

/// Some tracked layers.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Their numbers, ascending.
    pub layers: Vec<usize>,
    pub specs: Vec<LayerSpec>,
    /// For every tracked layer its place in the group.
    places: Vec<Option<usize>>,
}

impl Group {
    fn new(all: &[LayerSpec], layers: &[usize]) -> Self {
        let places = (0..all.len()).map(|l| layers.iter().position(|&own| own == l)).collect();
        Self { layers: layers.to_vec(), specs: layers.iter().map(|&l| all[l].clone()).collect(), places }
    }

    fn is_whole(&self) -> bool {
        self.layers.len() == self.places.len()
    }

    /// The key of this group's part of an artifact, over a range of examples.
    fn key(&self, whole: &Key, range: &Range<usize>) -> Key {
        KeyBuilder::new("group", 1)
            .field("of", *whole)
            .list("layers", self.specs.iter().map(|layer| layer.name.as_str()))
            .field("start", range.start as u64)
            .field("end", range.end as u64)
            .finish()
    }

    /// The name that a sum of this group has among those of all layers: layers are numbered anew in a group, inputs are
    /// not.
    pub(super) fn name_in_run(&self, name: &str) -> String {
        for side in ["output", "lambda"] {
            let place = name.strip_prefix(side).and_then(|rest| rest.strip_prefix('.')).and_then(|l| l.parse().ok());
            if let Some(&l) = place.and_then(|place: usize| self.layers.get(place)) {
                return format!("{side}.{l}");
            }
        }
        name.to_owned()
    }

    /// The bases of these layers alone.
    fn bases<T: Number>(&self, all: &[Bases<T>]) -> Vec<Bases<T>> {
        let of = |bases: &Bases<T>| {
            let (conditioners, frozen) = self.conditioning(&bases.conditioners, &bases.frozen);
            Bases { bases: self.layers.iter().map(|&l| bases.bases[l].clone()).collect(), conditioners, frozen }
        };
        all.iter().map(of).collect()
    }

    /// What concerns these layers of conditioners, which may be none, and of frozen layers.
    fn conditioning<T: Number>(
        &self,
        conditioners: &[Option<Conditioner<T>>],
        frozen: &[usize],
    ) -> (Vec<Option<Conditioner<T>>>, Vec<usize>) {
        let own = self.layers.iter().filter_map(|&l| conditioners.get(l).cloned()).collect();
        (own, frozen.iter().filter_map(|&l| self.places[l]).collect())
    }
}

/// A network of which some tracked layers leave taps.
#[derive(Debug)]
pub(super) struct GroupNetwork<'a> {
    network: Arc<TrackedNetwork>,
    group: &'a Group,
}

impl<'a> GroupNetwork<'a> {
    pub(super) fn new(network: Arc<TrackedNetwork>, group: &'a Group) -> Self {
        Self { network, group }
    }
}

impl Network for GroupNetwork<'_> {
    type Batch = Batch;

    fn layers(&self) -> &[LayerSpec] {
        &self.group.specs
    }

    fn positions<'b>(&self, batch: &'b Batch) -> &'b Positions {
        self.network.positions(batch)
    }

    fn products(&self) -> Products {
        self.network.products()
    }

    fn differentiate(&self, batch: &Batch, objective: Objective, sink: &mut dyn TapSink) -> Result<Vec<f64>, Error> {
        self.network.differentiate(batch, objective, &mut Renumbered { places: &self.group.places, sink })
    }
}

impl Run<'_> {
    /// The groups that the plan made.
    pub(super) fn groups(&self) -> Vec<Group> {
        let layers = self.plan.training.layers();
        self.plan.memory.groups.iter().map(|group| Group::new(layers, group)).collect()
    }

    /// The only group, if all layers fit.
    pub(super) fn whole_group(&self) -> Option<Group> {
        self.groups().into_iter().next().filter(Group::is_whole)
    }

    /// Sums of one network's covariances over this process's examples, group by group, on disk.
    pub(super) fn covariance_groups<T: Number>(&self, site: Site) -> Result<Vec<(Group, Key)>, JobError> {
        let (whole, range) = (self.plan.covariance_key(site), self.fit_range(site));
        let mut done = vec![];
        for group in self.groups() {
            let key = group.key(&whole, &range);
            if self.store.find(COVARIANCE_GROUP, &key)?.is_none() {
                let sum = self.covariance_pass::<T>(site, &group, &key)?;
                let counts = counts::metadata(&sum.counts());
                let state = sum.state();
                let tensors = with_shapes(&state);
                self.store.write(COVARIANCE_GROUP, &key, &data(&tensors), &counts)?;
                self.store.remove_partial(COVARIANCE, &key)?;
            }
            done.push((group, key));
        }
        Ok(done)
    }

    /// A group's sums from disk.
    pub(super) fn covariance_of_group<T: Number>(
        &self,
        group: &Group,
        key: &Key,
    ) -> Result<CovarianceSum<T>, JobError> {
        let found = self.group_artifact(COVARIANCE_GROUP, key)?;
        let mut sum = CovarianceSum::<T>::weighted(&group.specs, self.plan.pair_weights());
        sum.add_state(|name| found.f64(name).ok(), &counts::of_file(&found, 0..group.specs.len())?)?;
        Ok(sum)
    }

    /// What the covariances of all layers are means over, from their groups' files.
    fn joined_counts(&self, groups: &[(Group, Key)]) -> Result<Counts, JobError> {
        let mut joined = Counts { positions: vec![0; self.plan.training.layers().len()], examples: 0 };
        for (group, key) in groups {
            let own = counts::of_file(&*self.group_artifact(COVARIANCE_GROUP, key)?, 0..group.specs.len())?;
            group.layers.iter().zip(own.positions).for_each(|(&l, positions)| joined.positions[l] = positions);
            joined.examples = own.examples;
        }
        Ok(joined)
    }

    fn group_artifact(&self, kind: &'static str, key: &Key) -> Result<Artifact, JobError> {
        self.store.find(kind, key)?.ok_or_else(|| JobError::MissingStep {
            folder: self.store.folder().to_owned(),
            what: "the sums of some layers",
            step: "fit",
        })
    }

    /// Joins the groups' sums to the covariances of all layers.
    pub(super) fn join_covariances<T: Number>(&self, site: Site, groups: &[(Group, Key)]) -> Result<(), JobError> {
        if groups.is_empty() {
            return Ok(());
        }
        let writer = self.covariance_writer(site, &self.joined_counts(groups)?)?;
        for (group, key) in groups {
            let covariance = self.covariance_of_group::<T>(group, key)?.finish()?;
            self.write_covariance(&writer, &group.specs, &covariance)?;
        }
        writer.finish()?;
        for (_, key) in groups {
            self.store.remove(COVARIANCE_GROUP, key)?;
        }
        Ok(())
    }

    /// Joins the groups' sums to the part of the covariances that a shard leaves.
    pub(super) fn join_covariance_part(
        &self,
        key: &Key,
        range: Range<u64>,
        groups: &[(Group, Key)],
    ) -> Result<(), JobError> {
        let counts = counts::metadata(&self.joined_counts(groups)?);
        self.join_part((COVARIANCE, COVARIANCE_GROUP), key, range, groups, &counts)
    }

    /// Joins the groups' Λ to the part of Λ that a shard leaves.
    pub(super) fn join_lambda_part(
        &self,
        key: &Key,
        range: Range<u64>,
        groups: &[(Group, Key)],
    ) -> Result<(), JobError> {
        let Some((_, first)) = groups.first() else { return Ok(()) };
        let examples = count(&*self.group_artifact(LAMBDA_GROUP, first)?, "examples")?;
        let counts = Metadata::from([("examples".to_owned(), examples.to_string())]);
        self.join_part((LAMBDA, LAMBDA_GROUP), key, range, groups, &counts)
    }

    fn join_part(
        &self,
        (kind, of_group): (&'static str, &'static str),
        key: &Key,
        range: Range<u64>,
        groups: &[(Group, Key)],
        counts: &Metadata,
    ) -> Result<(), JobError> {
        let found = groups.iter().map(|(group, key)| Ok((group, self.group_artifact(of_group, key)?)));
        let found = found.collect::<Result<Vec<_>, JobError>>()?;
        if found.is_empty() {
            return Ok(());
        }
        let mut specs = vec![];
        for (group, artifact) in &found {
            for own in artifact.names() {
                specs.push(TensorSpec::new(group.name_in_run(own), Dtype::F64, &artifact.spec(own)?.shape[..]));
            }
        }
        // as a shard without groups has them
        specs.sort_by_key(|spec: &TensorSpec| {
            let (side, number) = spec.name.split_once('.').unwrap_or((&spec.name, ""));
            (side.to_owned(), number.parse::<usize>().ok())
        });
        let writer = self.store.part_writer(kind, key, range, &specs, counts)?;
        for (group, artifact) in &found {
            for own in artifact.names() {
                writer.write_values_at(&group.name_in_run(own), 0, artifact.f64(own)?)?;
                artifact.forget(own);
            }
        }
        writer.finish()?;
        for (_, key) in groups {
            self.store.remove(of_group, key)?;
        }
        Ok(())
    }

    /// Λ sums of one network for several fits over this process's examples, group by group, on disk: for each fit its
    /// groups.
    pub(super) fn lambda_groups<T: Number>(
        &self,
        site: Site,
        fits: &[usize],
        bases: &[Bases<T>],
    ) -> Result<Vec<Vec<(Group, Key)>>, JobError> {
        let range = self.fit_range(site);
        let mut done: Vec<Vec<(Group, Key)>> = vec![vec![]; fits.len()];
        for group in self.groups() {
            let keys: Vec<Key> = fits.iter().map(|&fit| group.key(&self.lambda_key_at(fit, site), &range)).collect();
            let mut missing = false;
            for key in &keys {
                missing |= self.store.find(LAMBDA_GROUP, key)?.is_none();
            }
            if missing {
                let own = group.bases(bases);
                let sums = self.lambda_pass(site, &group, &keys, &own)?;
                for (key, sum) in keys.iter().zip(sums.into_sums()) {
                    let counts = Metadata::from([("examples".into(), sum.examples().to_string())]);
                    let state = sum.state();
                    let tensors = with_shapes(&state);
                    self.store.write(LAMBDA_GROUP, key, &data(&tensors), &counts)?;
                    self.store.remove_partial(LAMBDA, key)?;
                }
            }
            for (done, key) in done.iter_mut().zip(keys) {
                done.push((group.clone(), key));
            }
        }
        Ok(done)
    }

    /// Joins the groups' sums to Λ of all layers.
    pub(super) fn join_lambda<T: Number>(
        &self,
        fit: usize,
        site: Site,
        groups: &[(Group, Key)],
    ) -> Result<(), JobError> {
        let Some((_, key)) = groups.first() else { return Ok(()) };
        let first = self.group_artifact(LAMBDA_GROUP, key)?;
        let writer = self.lambda_writer(fit, site, count(&first, "examples")?)?;
        for (group, key) in groups {
            let found = self.group_artifact(LAMBDA_GROUP, key)?;
            let mut sum = LambdaSum::<T>::new(&group.specs, vec![None; group.specs.len()]);
            sum.add_state(|name| found.f64(name).ok(), count(&found, "examples")?)?;
            drop(found);
            self.write_lambda(&writer, &group.specs, &sum.finish()?)?;
        }
        writer.finish()?;
        for (_, key) in groups {
            self.store.remove(LAMBDA_GROUP, key)?;
        }
        Ok(())
    }
}
