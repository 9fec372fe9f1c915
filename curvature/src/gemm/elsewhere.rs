//! In place of the AVX-512 products on other processors: there are none.

use std::ops::Range;

use super::{Into, Products, View};

pub(super) fn runs(_: Products) -> bool {
    false
}

pub(super) enum Part {
    All,
    Lower,
}

/// Cannot be made where [`runs`] is false.
pub(super) struct Product;

impl Product {
    pub(super) fn new(_: *mut f32, _: usize, _: Into, _: f32, _: View<'_, f32>, _: View<'_, f32>, _: Part) -> Self {
        Self
    }

    pub(super) unsafe fn compute(&self, _: Range<usize>, _: Range<usize>) {}
}
