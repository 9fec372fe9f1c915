//! What reading images found, for the plan.

/// What reading images found, for the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ImageReport {
    /// What becomes of an image, and which file says so.
    pub processing: String,
    /// Images that were grey and became coloured.
    pub coloured: usize,
    /// Images that were coloured and became grey.
    pub greyed: usize,
    /// Images whose transparency was left out.
    pub opaque: usize,
    /// Images that were turned as their EXIF data say.
    pub turned: usize,
    /// Classes in their order, where they are the names of a folder's folders because the configuration names none.
    pub classes_by_order: Option<Vec<String>>,
    /// Files of a folder that are no images, and one of their names.
    pub others: Option<(usize, String)>,
}
