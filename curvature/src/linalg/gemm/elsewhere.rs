//! In place of the AVX-512 products on other processors: there are none.

use std::ops::Range;

use super::{Into, Products, Threads, View};

pub(super) fn runs(_: Products) -> bool {
    false
}

/// Not called where [`runs`] is false.
pub(super) unsafe fn add_gram(_: &mut [f64], _: View<'_, f32>, _: Threads) {}

/// Nothing is packed.
#[derive(Debug, Default)]
pub(super) struct Panels;

impl Panels {
    pub(super) unsafe fn pack(&mut self, _: View<'_, f32>) {}

    pub(super) fn are_of(&self, _: View<'_, f32>, _: Products) -> bool {
        false
    }
}

/// Cannot be made where [`runs`] is false.
pub(super) struct Product;

impl Product {
    pub(super) fn new(_: *mut f32, _: usize, _: Into, _: f32, _: View<'_, f32>, _: View<'_, f32>) -> Self {
        Self
    }

    pub(super) fn with_panels(self, _: &Panels) -> Self {
        self
    }

    pub(super) unsafe fn compute(&self, _: Range<usize>, _: Range<usize>) {}
}
