//! What a disk may hold after a loss of power.
//!
//! What a finished sync has covered is there. Of all that came later, each piece of a file may be as any later write
//! has left it, or none; the length may be anything in between, and what was never written is zeros; and each name in
//! the folder may have been made, changed and removed, or not. That is more than the usual file systems do.

use std::collections::{BTreeMap, HashMap};

use super::trace::{Call, Moment, What};

/// Bytes that are on the disk together or not at all: less than a sector, which a disk should write whole.
const PIECE: usize = 64;

/// Files by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Numbers that look random, and are the same for the same seed (SplitMix64).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// One of 0..`n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// What becomes of changes that no sync has covered.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// Each on its own.
    Mixed,
}

impl Fate {
    fn any(chance: &mut Chance) -> Self {
        [Self::Lost, Self::Kept, Self::Mixed, Self::Mixed][chance.below(4)]
    }

    /// How many of the first of `all` changes reach the disk.
    fn reach(self, all: usize, chance: &mut Chance) -> usize {
        match self {
            Self::Lost => 0,
            Self::Kept => all,
            Self::Mixed => chance.below(all + 1),
        }
    }
}

/// Changes to one thing, a file or the folder, and the syncs of it.
struct Log<T> {
    changes: Vec<(Moment, Moment, T)>,
    syncs: Vec<(Moment, Moment)>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { changes: Vec::new(), syncs: Vec::new() }
    }
}

impl<T> Log<T> {
    fn change(&mut self, call: &Call, change: T) {
        assert!(self.changes.last().is_none_or(|last| last.1 <= call.begin), "two changes at once");
        self.changes.push((call.begin, call.end, change));
    }

    /// What is durable at a moment; and what has begun besides.
    fn at(&self, cut: Moment) -> (impl Iterator<Item = &T>, Vec<&T>) {
        let done = self.syncs.iter().filter(|(_, end)| *end <= cut);
        let covered = done.map(|(begin, _)| *begin).max().unwrap_or(0);
        let durable = self.changes.partition_point(|(_, end, _)| *end < covered);
        let begun = self.changes.partition_point(|(begin, ..)| *begin <= cut);
        (
            self.changes[..durable].iter().map(|c| &c.2),
            self.changes[durable..begun].iter().map(|c| &c.2).collect(),
        )
    }
}

#[derive(Debug)]
enum FileChange {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Debug)]
enum NameChange {
    Make { name: String, file: usize },
    Rename { from: String, to: String, file: usize },
    Remove { name: String },
}

/// What the folder of the results was asked to hold, from the beginning on.
#[derive(Default)]
pub(super) struct Disk {
    files: Vec<Log<FileChange>>,
    names: Log<NameChange>,
}

impl Disk {
    pub(super) fn new(calls: Vec<Call>) -> Self {
        let mut disk = Self::default();
        // As programs see it while there is power.
        let mut names: HashMap<String, usize> = HashMap::new();
        for mut call in calls {
            match std::mem::replace(&mut call.what, What::TellDone) {
                What::Open { name, create, truncate } => {
                    let there = names.get(&name).copied();
                    if let (Some(file), true) = (there, truncate) {
                        disk.files[file].change(&call, FileChange::Truncate(0));
                    }
                    if there.is_none() && create {
                        let file = disk.files.len();
                        disk.files.push(Log::default());
                        names.insert(name.clone(), file);
                        disk.names.change(&call, NameChange::Make { name, file });
                    }
                }
                What::Write { name, at, bytes } => {
                    disk.files[names[&name]].change(&call, FileChange::Write { at: at as usize, bytes });
                }
                What::Truncate { name, length } => {
                    disk.files[names[&name]].change(&call, FileChange::Truncate(length as usize));
                }
                What::Sync { name } if name.is_empty() => disk.names.syncs.push((call.begin, call.end)),
                What::Sync { name } => disk.files[names[&name]].syncs.push((call.begin, call.end)),
                What::Rename { from, to } => {
                    let file = names.remove(&from).unwrap();
                    names.insert(to.clone(), file);
                    disk.names.change(&call, NameChange::Rename { from, to, file });
                }
                What::Unlink { name } => {
                    names.remove(&name).unwrap();
                    disk.names.change(&call, NameChange::Remove { name });
                }
                What::TellNext(_) | What::TellDone => {}
            }
        }
        disk
    }

    /// What the disk may hold when the power goes just after `cut`.
    pub(super) fn after_power_loss(&self, cut: Moment, chance: &mut Chance) -> Files {
        self.at(cut, Fate::any, chance)
    }

    /// What programs see in the end, with power.
    pub(super) fn in_the_end(&self) -> Files {
        self.at(Moment::MAX, |_| Fate::Kept, &mut Chance(0))
    }

    fn at(&self, cut: Moment, fate: impl Fn(&mut Chance) -> Fate, chance: &mut Chance) -> Files {
        let mut names = BTreeMap::new();
        let (durable, open) = self.names.at(cut);
        let names_fate = fate(chance);
        let kept: Vec<_> = open.into_iter().filter(|_| names_fate.reach(1, chance) == 1).collect();
        for change in durable.chain(kept) {
            match change {
                NameChange::Make { name, file } => _ = names.insert(name, file),
                NameChange::Remove { name } => _ = names.remove(name),
                NameChange::Rename { from, to, file } => {
                    names.remove(from);
                    names.insert(to, file);
                }
            }
        }
        let content = |(name, &file): (&String, &usize)| {
            let fate = fate(chance);
            (name.clone(), content(&self.files[file], cut, fate, chance))
        };
        names.into_iter().map(content).collect()
    }
}

/// What a file may hold, if what no sync has covered has this fate.
fn content(file: &Log<FileChange>, cut: Moment, fate: Fate, chance: &mut Chance) -> Vec<u8> {
    let (durable, open) = file.at(cut);
    let mut bytes = Vec::new();
    for change in durable {
        bytes.resize(change.length(bytes.len()), 0);
        change.apply(&mut bytes, 0, usize::MAX);
    }
    let mut lengths = vec![bytes.len()];
    for change in &open {
        lengths.push(change.length(lengths[lengths.len() - 1]));
    }
    let (shortest, longest) =
        (lengths.iter().copied().min().unwrap(), lengths.iter().copied().max().unwrap());
    let length = match fate {
        // A length that somebody meant is likelier to be taken for whole.
        Fate::Mixed if chance.below(2) == 0 => shortest + chance.below(longest - shortest + 1),
        _ => lengths[fate.reach(open.len(), chance)],
    };
    bytes.resize(longest, 0);
    // How many of the changes have reached each piece.
    let mut reached = HashMap::new();
    for (i, change) in open.iter().enumerate() {
        let (from, to) = change.touches(longest);
        for piece in from / PIECE..to.div_ceil(PIECE) {
            if *reached.entry(piece).or_insert_with(|| fate.reach(open.len(), chance)) > i {
                change.apply(&mut bytes, piece * PIECE, (piece + 1) * PIECE);
            }
        }
    }
    bytes.truncate(length);
    bytes
}

impl FileChange {
    /// A file's length after this change, from the one before.
    fn length(&self, before: usize) -> usize {
        match self {
            Self::Write { at, bytes } => before.max(at + bytes.len()),
            Self::Truncate(length) => *length,
        }
    }

    /// From where to where it changes a file that is nowhere longer than `longest`.
    fn touches(&self, longest: usize) -> (usize, usize) {
        match self {
            Self::Write { at, bytes } => (*at, at + bytes.len()),
            Self::Truncate(length) => (*length, longest),
        }
    }

    /// Does it to what lies between `from` and `to`.
    fn apply(&self, file: &mut [u8], from: usize, to: usize) {
        let (begin, end) = self.touches(file.len());
        let (from, to) = (from.max(begin), to.min(end));
        if from >= to {
            return;
        }
        match self {
            Self::Write { at, bytes } => file[from..to].copy_from_slice(&bytes[from - at..to - at]),
            Self::Truncate(_) => file[from..to].fill(0),
        }
    }
}
