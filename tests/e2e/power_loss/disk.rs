//! The possible contents of a disk after a power loss.
//!
//! Changes that a finished sync has covered are on the disk. Of later changes, each piece of a file may hold any of them or
//! none. The length may be any value in between, and bytes that were never written are zeros. Each name in the folder may
//! have been created, renamed or removed, or not. Usual file systems guarantee more than that.

use std::collections::{BTreeMap, HashMap};

use super::trace::{Call, Moment, What};

/// Bytes that reach the disk together or not at all: less than a sector, which a disk should write as a whole.
const PIECE: usize = 64;

/// Files by their names.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Pseudo-random numbers from a seed (SplitMix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    /// One of 0..`n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Which changes that no sync has covered reach the disk.
#[derive(Clone, Copy)]
enum Unsynced {
    Lost,
    Kept,
    /// Chosen for each piece or name.
    Mixed,
}

impl Unsynced {
    fn any(random: &mut Random) -> Self {
        [Self::Lost, Self::Kept, Self::Mixed, Self::Mixed][random.below(4)]
    }

    /// How many of the first of `all` changes reach the disk.
    fn reach(self, all: usize, random: &mut Random) -> usize {
        match self {
            Self::Lost => 0,
            Self::Kept => all,
            Self::Mixed => random.below(all + 1),
        }
    }
}

/// The changes and syncs of a file or of the folder.
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

    /// The changes that are durable at a moment, and the others that have begun by then.
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

/// All changes to the folder of the results.
#[derive(Default)]
pub(super) struct Disk {
    files: Vec<Log<FileChange>>,
    names: Log<NameChange>,
}

impl Disk {
    pub(super) fn new(calls: Vec<Call>) -> Self {
        let mut disk = Self::default();
        // The names that programs see while there is power.
        let mut names: HashMap<String, usize> = HashMap::new();
        for mut call in calls {
            match std::mem::replace(&mut call.what, What::Finish) {
                What::Open { name, create, truncate } => {
                    let known = names.get(&name).copied();
                    if let (Some(file), true) = (known, truncate) {
                        disk.files[file].change(&call, FileChange::Truncate(0));
                    }
                    if known.is_none() && create {
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
                What::Acknowledge(_) | What::Finish => {}
            }
        }
        disk
    }

    /// What the disk may hold if the power fails just after `cut`.
    pub(super) fn after_power_loss(&self, cut: Moment, random: &mut Random) -> Files {
        self.at(cut, Unsynced::any, random)
    }

    /// What programs see at the end, without a power loss.
    pub(super) fn in_the_end(&self) -> Files {
        self.at(Moment::MAX, |_| Unsynced::Kept, &mut Random(0))
    }

    fn at(&self, cut: Moment, unsynced: impl Fn(&mut Random) -> Unsynced, random: &mut Random) -> Files {
        let mut names = BTreeMap::new();
        let (durable, open) = self.names.at(cut);
        let names_unsynced = unsynced(random);
        let kept: Vec<_> = open.into_iter().filter(|_| names_unsynced.reach(1, random) == 1).collect();
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
            let unsynced = unsynced(random);
            (name.clone(), content(&self.files[file], cut, unsynced, random))
        };
        names.into_iter().map(content).collect()
    }
}

/// What a file may hold, given which unsynced changes reach the disk.
fn content(file: &Log<FileChange>, cut: Moment, unsynced: Unsynced, random: &mut Random) -> Vec<u8> {
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
    let length = match unsynced {
        // Otherwise one of the lengths that the file really had, which is more likely to look complete.
        Unsynced::Mixed if random.below(2) == 0 => shortest + random.below(longest - shortest + 1),
        _ => lengths[unsynced.reach(open.len(), random)],
    };
    bytes.resize(longest, 0);
    // The number of changes that have reached each piece.
    let mut reached = HashMap::new();
    for (i, change) in open.iter().enumerate() {
        let (from, to) = change.touches(longest);
        for piece in from / PIECE..to.div_ceil(PIECE) {
            if *reached.entry(piece).or_insert_with(|| unsynced.reach(open.len(), random)) > i {
                change.apply(&mut bytes, piece * PIECE, (piece + 1) * PIECE);
            }
        }
    }
    bytes.truncate(length);
    bytes
}

impl FileChange {
    /// A file's length after this change, given its length before.
    fn length(&self, before: usize) -> usize {
        match self {
            Self::Write { at, bytes } => before.max(at + bytes.len()),
            Self::Truncate(length) => *length,
        }
    }

    /// The range that it changes in a file of at most `longest` bytes.
    fn touches(&self, longest: usize) -> (usize, usize) {
        match self {
            Self::Write { at, bytes } => (*at, at + bytes.len()),
            Self::Truncate(length) => (*length, longest),
        }
    }

    /// Applies it to the bytes between `from` and `to`.
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
