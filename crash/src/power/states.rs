//! The states in which a loss of power can leave a disk.
//!
//! A device keeps all writes that had ended before the last flush. Of the later writes, it may keep
//! any and lose the others, whatever their order, and it may tear a write between two sectors. A
//! state is chosen by its position in the record, and by what happens to the writes between the
//! last flush and this position.

use testkit::random::Random;

use super::disk::{Event, Pages, Record};

/// Size in bytes of a block, the unit that [`Tail::Blocks`] keeps or loses.
const BLOCK: usize = 4096;

/// Number of bits that change on a disk with [`Fault::Rot`](super::Fault::Rot).
const FLIPS: usize = 8;

/// What happens to the writes after the last flush.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tail {
    /// All are lost.
    Lost,
    /// All are kept.
    Kept,
    /// Each block of 4 KiB is kept or lost.
    Blocks,
    /// Each sector is kept or lost.
    Sectors,
}

/// The state of a disk after a loss of power, and what the workers had noted before this loss.
pub(crate) struct State {
    pub(crate) tail: Tail,
    pub(crate) pages: Pages,
    /// The lines that the workers had noted.
    pub(crate) marks: Vec<String>,
    /// The bits that change after the file system has recovered.
    pub(crate) flips: Vec<Flip>,
}

/// A bit that changes.
pub(crate) struct Flip {
    pub(crate) offset: u64,
    /// The byte in which only this bit is set.
    pub(crate) mask: u8,
}

/// Chooses `count` positions in a record, and returns them in order. Up to half of them are
/// directly after flushes, each after a different flush. The others are at random places.
pub(crate) fn positions(record: &Record, count: usize, random: &mut Random) -> Vec<usize> {
    let events = record.events.len();
    let is_flush = |at: &usize| matches!(record.events[at - 1], Event::Flush);
    let mut flushes: Vec<usize> = (1..=events).filter(is_flush).collect();
    // If there are more flushes than that, those to leave out are chosen at random.
    while flushes.len() > count / 2 {
        flushes.remove(random.below(flushes.len() as u64) as usize);
    }
    let mut chosen = flushes;
    while chosen.len() < count {
        chosen.push(random.below(events as u64 + 1) as usize);
    }
    chosen.sort_unstable();
    chosen
}

/// Goes through a record once, and makes states on the way.
pub(crate) struct Replay<'a> {
    record: &'a Record,
    /// Size in bytes of a sector, the unit that the device writes as a whole.
    sector: usize,
    /// The number of events whose writes `durable` contains. Unless it is 0, the last of these
    /// events is a flush.
    flushed: usize,
    durable: Pages,
}

impl<'a> Replay<'a> {
    /// Returns a replay of `record` for a device with sectors of `sector` bytes.
    pub(crate) fn new(record: &'a Record, sector: usize) -> Self {
        Replay {
            record,
            sector,
            flushed: 0,
            durable: record.start.clone(),
        }
    }

    /// Returns a state at `position`. `position` must not be less than in the previous call.
    pub(crate) fn state(&mut self, position: usize, random: &mut Random) -> State {
        let events = &self.record.events;
        let last_flush = events[self.flushed..position]
            .iter()
            .rposition(|event| matches!(event, Event::Flush))
            .map_or(self.flushed, |at| self.flushed + at + 1);
        for event in &events[self.flushed..last_flush] {
            if let Event::Write(offset, data) = event {
                self.durable.write(*offset, data);
            }
        }
        self.flushed = last_flush;
        let tail = match random.below(5) {
            0 => Tail::Lost,
            1 => Tail::Kept,
            2 => Tail::Sectors,
            _ => Tail::Blocks,
        };
        let mut pages = self.durable.clone();
        for event in &events[last_flush..position] {
            if let Event::Write(offset, data) = event {
                self.write_some(&mut pages, (*offset, data), tail, random);
            }
        }
        let marks = events[..position].iter().filter_map(|event| match event {
            Event::Mark(line) => Some(line.clone()),
            _ => None,
        });
        State {
            tail,
            pages,
            marks: marks.collect(),
            flips: Vec::new(),
        }
    }

    /// Returns the state after the last event, with bits that change in what was written.
    pub(crate) fn rotten(&mut self, random: &mut Random) -> State {
        let mut state = self.state(self.record.events.len(), random);
        let writes = self.record.events.iter();
        let writes: Vec<(u64, usize)> = writes
            .filter_map(|event| match event {
                Event::Write(offset, data) => Some((*offset, data.len())),
                _ => None,
            })
            .collect();
        let mut flip = |_| {
            let (offset, length) = writes[random.below(writes.len() as u64) as usize];
            Flip {
                offset: offset + random.below(length as u64),
                mask: 1 << random.below(8),
            }
        };
        state.flips = (0..FLIPS.min(writes.len())).map(&mut flip).collect();
        state
    }

    /// Writes to `pages` those parts of a write that the device keeps according to `tail`.
    fn write_some(
        &self,
        pages: &mut Pages,
        (offset, data): (u64, &[u8]),
        tail: Tail,
        random: &mut Random,
    ) {
        let size = match tail {
            Tail::Lost => return,
            Tail::Kept => return pages.write(offset, data),
            Tail::Blocks => BLOCK,
            Tail::Sectors => self.sector,
        };
        let mut at = offset;
        for part in data.chunks(size) {
            if random.below(2) == 0 {
                pages.write(at, part);
            }
            at += part.len() as u64;
        }
    }
}
