//! Vector clocks. The unit of order is the warp; inside a warp, lanes are told apart between the
//! points at which they synchronise. Warps are numbered through their cluster (a launch without
//! clusters has clusters of one block), and behind them come *agents*: what an asynchronous copy
//! writes carries the clock of the barrier or of the group of copies that announces its completion,
//! so that only those who waited for that see it.

use std::collections::BTreeMap;

/// Stands, in the place of a lane, for what a warp did as a whole.
pub(crate) const WHOLE_WARP: u32 = 33;

/// Accesses that something is known of: of each warp all up to a time, and of some lanes more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    /// By warp, then by agent.
    pub times: Vec<u32>,
    /// Lanes of a warp of which more is known than of the whole warp.
    pub lanes: Vec<(u32, [u32; 32])>,
}

impl Track {
    /// Whether an access is among them; `None` for an access by several lanes.
    pub fn covers(&self, warp: u32, lane: Option<u32>, time: u32) -> bool {
        if self.times.get(warp as usize).is_some_and(|seen| time <= *seen) {
            return true;
        }
        let Some((_, lanes)) = self.lanes.iter().find(|(of, _)| *of == warp) else { return false };
        match lane {
            None => lanes.iter().all(|seen| time <= *seen),
            Some(lane) => match lanes.get(lane as usize) {
                Some(seen) => time <= *seen,
                None => lanes.iter().any(|seen| time <= *seen),
            },
        }
    }

    fn raise(&mut self, index: usize, time: u32) {
        if self.times.len() <= index {
            self.times.resize(index + 1, 0);
        }
        self.times[index] = self.times[index].max(time);
    }

    fn raise_lanes(&mut self, warp: u32, lanes: &[u32; 32]) {
        match self.lanes.iter_mut().find(|(of, _)| *of == warp) {
            Some((_, mine)) => mine.iter_mut().zip(lanes).for_each(|(a, b)| *a = (*a).max(*b)),
            None => self.lanes.push((warp, *lanes)),
        }
    }

    fn join(&mut self, other: &Track) {
        if self.times.len() < other.times.len() {
            self.times.resize(other.times.len(), 0);
        }
        self.times.iter_mut().zip(&other.times).for_each(|(a, b)| *a = (*a).max(*b));
        other.lanes.iter().for_each(|(warp, lanes)| self.raise_lanes(*warp, lanes));
        self.prune();
    }

    fn prune(&mut self) {
        let times = &self.times;
        self.lanes.retain(|(warp, lanes)| {
            let whole = times.get(*warp as usize).copied().unwrap_or(0);
            lanes.iter().any(|time| *time > whole)
        });
    }
}

/// What is known of one cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Accesses that happened before.
    pub seen: Track,
    /// Those of them that a proxy fence has made visible to asynchronous copies.
    pub fenced: Track,
}

/// What is known, by cluster.
pub(crate) type Knowledge = BTreeMap<u32, View>;

/// Takes over what `other` knows.
pub(crate) fn join(into: &mut Knowledge, other: &Knowledge) {
    for (cluster, view) in other {
        match into.get_mut(cluster) {
            Some(mine) => {
                mine.seen.join(&view.seen);
                mine.fenced.join(&view.fenced);
            }
            None => {
                into.insert(*cluster, view.clone());
            }
        }
    }
}

/// Adds that what an agent did up to a time happened before.
pub(crate) fn announce(knowledge: &mut Knowledge, cluster: u32, agent: u16, time: u32) {
    knowledge.entry(cluster).or_default().seen.raise(usize::from(agent), time);
}

/// The clock of one warp. An access at time `t` of warp `w` happened before what this warp does now
/// if `t <= visible[w]`.
#[derive(Debug, Clone)]
pub(crate) struct WarpClock {
    pub cluster: u32,
    /// Number in the cluster.
    pub warp: u32,
    /// Stamped on the accesses of this warp.
    pub now: u32,
    /// Per warp of the cluster, and per agent. The warp's own entry is the last time at which all
    /// lanes met.
    pub visible: Vec<u32>,
    /// Lanes of other warps of which more is visible.
    partial: Track,
    /// What a proxy fence covers.
    pub fenced_proxy: Track,
    /// What is known of other clusters.
    pub foreign: Knowledge,
    /// `lanes[a][b]`: accesses of lane `b` up to this time happened before what lane `a` does.
    lanes: Option<Box<[[u32; 32]; 32]>>,
    /// What the last fence made ready to be released by a relaxed store.
    fenced: Option<Knowledge>,
    /// What relaxed loads have seen and the next fence will acquire.
    observed: Knowledge,
}

impl WarpClock {
    /// The clock of a warp among the `warps` of its cluster.
    pub fn new(cluster: u32, warp: u32, warps: usize) -> Self {
        WarpClock {
            cluster,
            warp,
            now: 1,
            visible: vec![0; warps],
            partial: Track::default(),
            fenced_proxy: Track { times: vec![0; warps], lanes: Vec::new() },
            foreign: Knowledge::new(),
            lanes: None,
            fenced: None,
            observed: Knowledge::new(),
        }
    }

    /// The time up to which accesses of a warp or agent are visible to every lane.
    #[inline(always)]
    pub fn seen(&self, warp: u16) -> u32 {
        self.visible.get(usize::from(warp)).copied().unwrap_or(0)
    }

    /// Whether an access happened before what `lane` of this warp does now.
    #[inline]
    pub fn sees(&self, cluster: u32, warp: u32, from_lane: Option<u32>, time: u32, lane: u32) -> bool {
        if cluster != self.cluster {
            return self.foreign.get(&cluster).is_some_and(|view| view.seen.covers(warp, from_lane, time));
        }
        if self.visible.get(warp as usize).is_some_and(|seen| time <= *seen) {
            return true;
        }
        if warp != self.warp {
            return self.partial.covers(warp, from_lane, time);
        }
        match (from_lane, &self.lanes) {
            (Some(from), _) if from == lane || from == WHOLE_WARP => true,
            (Some(from), Some(lanes)) => time <= lanes[lane as usize & 31][from as usize & 31],
            (None, Some(lanes)) => lanes[lane as usize & 31].iter().all(|seen| time <= *seen),
            _ => false,
        }
    }

    /// Whether a proxy fence lies between an access and what this warp does now.
    pub fn is_fenced(&self, warp: u32, lane: Option<u32>, time: u32) -> bool {
        self.fenced_proxy.covers(warp, lane, time)
    }

    /// `bar.warp.sync` or a barrier: these lanes of the warp meet.
    pub fn meet(&mut self, lanes: u32, live: u32) {
        let time = self.now;
        self.now += 1;
        if lanes & live == live {
            self.visible[self.warp as usize] = time;
            self.lanes = None;
            return;
        }
        let base = self.visible[self.warp as usize];
        let table = self.lanes.get_or_insert_with(|| Box::new([[base; 32]; 32]));
        let members = || (0..32usize).filter(move |lane| lanes >> lane & 1 != 0);
        let mut union = [0; 32];
        for member in members() {
            union.iter_mut().zip(&table[member]).for_each(|(a, b)| *a = (*a).max(*b));
        }
        members().for_each(|member| union[member] = time);
        members().for_each(|member| table[member] = union);
    }

    /// What is known of the own cluster, of the own warp up to the last meeting of its lanes.
    fn view(&self) -> View {
        let mut seen = Track { times: self.visible.clone(), lanes: self.partial.lanes.clone() };
        seen.prune();
        View { seen, fenced: self.fenced_proxy.clone() }
    }

    /// Everything that happened before this point, own accesses included; later accesses are not.
    pub fn release(&mut self) -> Knowledge {
        let mut all = self.foreign.clone();
        let mut own = self.view();
        own.seen.times[self.warp as usize] = self.now;
        all.insert(self.cluster, own);
        self.now += 1;
        all
    }

    /// As [`Self::release`], but of the own warp only what these lanes did and know of the others.
    pub fn release_lanes(&mut self, lanes: u32, live: u32) -> Knowledge {
        if lanes & live == live {
            return self.release();
        }
        let mut all = self.foreign.clone();
        let mut own = self.view();
        let known = self.known_lanes(lanes);
        own.seen.raise_lanes(self.warp, &known);
        all.insert(self.cluster, own);
        self.now += 1;
        all
    }

    /// Up to which time these lanes know of each lane of the warp.
    fn known_lanes(&self, lanes: u32) -> [u32; 32] {
        let mut known = [self.visible[self.warp as usize]; 32];
        for lane in (0..32usize).filter(|lane| lanes >> lane & 1 != 0) {
            if let Some(table) = &self.lanes {
                known.iter_mut().zip(&table[lane]).for_each(|(a, b)| *a = (*a).max(*b));
            }
            known[lane] = self.now;
        }
        known
    }

    /// What another warp released happened before all that follows.
    pub fn acquire(&mut self, knowledge: &Knowledge) {
        for (cluster, view) in knowledge {
            if *cluster != self.cluster {
                let mine = self.foreign.entry(*cluster).or_default();
                mine.seen.join(&view.seen);
                mine.fenced.join(&view.fenced);
                continue;
            }
            let times = &view.seen.times;
            if self.visible.len() < times.len() {
                self.visible.resize(times.len(), 0);
            }
            let own = self.visible[self.warp as usize];
            self.visible.iter_mut().zip(times).for_each(|(a, b)| *a = (*a).max(*b));
            self.visible[self.warp as usize] = own;
            for (warp, lanes) in view.seen.lanes.iter().filter(|(warp, _)| *warp != self.warp) {
                self.partial.raise_lanes(*warp, lanes);
            }
            self.fenced_proxy.join(&view.fenced);
        }
    }

    /// As [`Self::acquire`], for these lanes of the warp: what other lanes of it released counts too.
    pub fn acquire_lanes(&mut self, knowledge: &Knowledge, lanes: u32, live: u32) {
        self.acquire(knowledge);
        let Some(view) = knowledge.get(&self.cluster) else { return };
        let whole = view.seen.times.get(self.warp as usize).copied().unwrap_or(0);
        let mut known = [whole; 32];
        if let Some((_, more)) = view.seen.lanes.iter().find(|(warp, _)| *warp == self.warp) {
            known.iter_mut().zip(more).for_each(|(a, b)| *a = (*a).max(*b));
        }
        let own = self.warp as usize;
        if lanes & live == live {
            let all = (0..32).filter(|lane| live >> lane & 1 != 0).map(|lane| known[lane]).min().unwrap_or(0);
            self.visible[own] = self.visible[own].max(all);
        }
        let base = self.visible[own];
        if known.iter().all(|time| *time <= base) {
            return;
        }
        let table = self.lanes.get_or_insert_with(|| Box::new([[base; 32]; 32]));
        for lane in (0..32usize).filter(|lane| lanes >> lane & 1 != 0) {
            table[lane].iter_mut().zip(&known).for_each(|(a, b)| *a = (*a).max(*b));
        }
    }

    /// These lanes have waited for what the agent announced at that time.
    pub fn acquire_agent(&mut self, agent: u16, time: u32) {
        let index = usize::from(agent);
        if self.visible.len() <= index {
            self.visible.resize(index + 1, 0);
        }
        self.visible[index] = self.visible[index].max(time);
    }

    /// `fence`, `membar`: orders what was seen before, and readies a release.
    pub fn fence(&mut self) {
        let observed = std::mem::take(&mut self.observed);
        self.acquire(&observed);
        self.fenced = Some(self.release());
    }

    /// `fence.proxy.async`: what these lanes know of becomes visible to asynchronous copies.
    pub fn fence_proxy(&mut self, lanes: u32, live: u32) {
        let known = self.known_lanes(lanes);
        let mut seen = self.view().seen;
        let time = self.now;
        self.now += 1;
        if lanes & live == live {
            seen.raise(self.warp as usize, time);
        } else {
            seen.raise_lanes(self.warp, &known);
        }
        self.fenced_proxy.join(&seen);
    }

    /// What a relaxed store publishes: all before the last fence.
    pub fn fenced(&self) -> Option<&Knowledge> {
        self.fenced.as_ref()
    }

    /// A relaxed load has seen a store that published this; the next fence will acquire it.
    pub fn observe(&mut self, knowledge: &Knowledge) {
        join(&mut self.observed, knowledge);
    }
}
