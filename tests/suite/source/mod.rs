//! Jobs of Source, from files to score files, against the library's own pieces put together by hand: what a job adds
//! to them is bookkeeping, and this is where it shows. The pieces themselves are held to the golden file in
//! `attribution/tests/source_golden`.

mod answers;
mod by_hand;
mod case;
mod frozen;
mod joint;
mod late_layers;
mod layer_rates;
mod layer_sets;
mod limits;
mod reuse;
mod stages;
mod whole;
