//! What the machine gives to a job: bytes of memory and disk, and the choices that keep the job within them.

pub(in crate::job) mod disk;
pub(in crate::job) mod limits;
pub(in crate::job) mod machine;
pub(in crate::job) mod mapped;
pub(in crate::job) mod memory;
pub(in crate::job) mod sizes;
pub(in crate::job) mod solve_memory;
pub(in crate::job) mod stage_memory;
