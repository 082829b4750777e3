//! Visiting images: order, stop and skip, bounds, errors, permits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cas_core::dispatch::{children_handler, dispatch, handler_fn, handlers, walk, walk_not_empty};
use cas_core::{
    Descriptor, Digest, Error, ErrorKind, Handler, MediaType, Next, Result, limit, pool,
};
use tokio::sync::Semaphore;

mod support;

/// Returns a descriptor of a type other than an index, so that only [`limit::WALK`] bounds the
/// depth.
fn node(name: &str) -> Descriptor {
    Descriptor::of(MediaType::from("x/y"), name.as_bytes())
}

/// A graph of named nodes, and the order in which they were visited.
#[derive(Default)]
struct Graph {
    names: HashMap<Digest, String>,
    edges: HashMap<Digest, Vec<Descriptor>>,
    visited: Mutex<Vec<String>>,
}

impl Graph {
    /// Returns the graph of lines such as `a: b c`.
    fn new(lines: &[&str]) -> Self {
        let mut graph = Graph::default();
        for line in lines {
            let (parent, children) = line.split_once(':').unwrap();
            let children: Vec<_> = children.split_whitespace().collect();
            for name in children.iter().chain([&parent]) {
                graph.names.insert(node(name).digest, (*name).to_owned());
            }
            let children = children.into_iter().map(node).collect();
            graph.edges.insert(node(parent).digest, children);
        }
        graph
    }

    fn visited(&self) -> String {
        self.visited.lock().unwrap().join(" ")
    }
}

#[async_trait]
impl Handler for Graph {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let name = self.names[&descriptor.digest].clone();
        self.visited.lock().unwrap().push(name);
        let children = self.edges.get(&descriptor.digest).cloned();
        Ok(Next::Children(children.unwrap_or_default()))
    }
}

const DIAMOND: &[&str] = &["a: b c d b", "b: e f", "c: f g", "d: b"];

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(Duration::from_secs(60), future).await;
    outcome.expect("it hangs")
}

#[test]
fn walk_is_in_order_and_visits_each_once() {
    let graph = Graph::new(DIAMOND);
    pool::wait(walk(&graph, &[node("a"), node("g")])).unwrap();
    assert_eq!(graph.visited(), "a b e f c g d");
}

#[test]
fn dispatch_visits_each_once_on_any_executor() {
    let graph = Graph::new(DIAMOND);
    pool::wait(dispatch(&graph, None, &[node("a"), node("a")])).unwrap();
    let mut visited = graph.visited.into_inner().unwrap();
    assert_eq!(visited[0], "a");
    visited.sort();
    assert_eq!(visited.concat(), "abcdefg");
}

/// Returns a handler that always returns `next`.
fn always(next: Next) -> Box<dyn Handler> {
    Box::new(handler_fn(move |_| {
        let next = next.clone();
        async move { Ok(next) }
    }))
}

#[tokio::test]
async fn stop_ends_the_sequence_and_skip_ends_the_branch() {
    let one = |name| always(Next::Children(vec![node(name)]));
    let root = node("root");
    let all = handlers(vec![one("a"), one("b")]).handle(&root).await;
    assert_eq!(all.unwrap(), Next::Children(vec![node("a"), node("b")]));
    let stopped = handlers(vec![one("a"), always(Next::Stop), one("b")]);
    let gathered = stopped.handle(&root).await.unwrap();
    assert_eq!(gathered, Next::Children(vec![node("a")]));
    let skipped = handlers(vec![one("a"), always(Next::Skip), one("b")]);
    assert_eq!(skipped.handle(&root).await.unwrap(), Next::Skip);
}

#[tokio::test]
async fn nothing_below_a_skipped_or_stopped_descriptor_is_visited() {
    for ending in [Next::Skip, Next::Stop] {
        let graph = Graph::new(DIAMOND);
        let ended = handler_fn(|descriptor: Descriptor| {
            let (graph, ending) = (&graph, ending.clone());
            async move {
                let next = graph.handle(&descriptor).await?;
                Ok(if descriptor == node("b") {
                    ending
                } else {
                    next
                })
            }
        });
        walk(&ended, &[node("a")]).await.unwrap();
        assert_eq!(graph.visited(), "a b c f g d");
    }
}

#[tokio::test]
async fn an_empty_walk_is_an_error_of_walk_not_empty() {
    let graph = Graph::new(DIAMOND);
    let error = walk_not_empty(&graph, &[node("g")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    walk_not_empty(&graph, &[node("a")]).await.unwrap();
}

/// Counts how many handlers run concurrently, each for a while.
#[derive(Default)]
struct Busy {
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Busy {
    async fn work(&self, time: Duration) {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _leave = Leave(&self.running);
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(time).await;
    }
}

#[tokio::test]
async fn the_limiter_bounds_handlers_and_siblings_run_in_parallel() {
    let roots: Vec<_> = (0..12).map(|number| node(&number.to_string())).collect();
    for (permits, most) in [(Some(3), 3), (None, 12)] {
        let busy = Busy::default();
        let work = handler_fn(|_| async {
            busy.work(Duration::from_millis(5)).await;
            Ok(Next::NONE)
        });
        let limiter = permits.map(Semaphore::new);
        in_time(dispatch(&work, limiter.as_ref(), &roots))
            .await
            .unwrap();
        assert_eq!(busy.most.load(Ordering::SeqCst), most);
    }
}

/// Each handler waits until the other handler runs as well.
#[tokio::test]
async fn handlers_that_compute_on_the_pool_run_side_by_side() {
    let both = Arc::new(Barrier::new(2));
    let work = handler_fn(|_| {
        let both = both.clone();
        let compute = move || {
            both.wait();
            Ok(Next::NONE)
        };
        pool::run(compute)
    });
    let roots = [node("a"), node("b")];
    in_time(dispatch(&work, None, &roots)).await.unwrap();
}

#[tokio::test]
async fn one_permit_is_enough_for_a_deep_tree() {
    let lines: Vec<_> = (0..500)
        .map(|depth| format!("{depth}: {} side{depth}", depth + 1))
        .collect();
    let graph = Graph::new(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let limiter = Semaphore::new(1);
    in_time(dispatch(&graph, Some(&limiter), &[node("0")]))
        .await
        .unwrap();
    assert_eq!(graph.visited.into_inner().unwrap().len(), 1001);
    assert_eq!(limiter.available_permits(), 1);
}

#[tokio::test]
async fn the_first_error_ends_the_others_and_is_returned() {
    let busy = Busy::default();
    let failing = handler_fn(|descriptor: Descriptor| {
        let busy = &busy;
        async move {
            if descriptor == node("bad") {
                busy.work(Duration::from_millis(5)).await;
                return Err(Error::corrupt("planted"));
            }
            busy.work(Duration::from_secs(3600)).await;
            Err(Error::internal("never reached"))
        }
    });
    let roots = [node("a"), node("bad"), node("b")];
    let limiter = Semaphore::new(3);
    let outcome = in_time(dispatch(&failing, Some(&limiter), &roots)).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(busy.most.load(Ordering::SeqCst), 3);
    assert_eq!(
        busy.running.load(Ordering::SeqCst),
        0,
        "a handler still runs"
    );
    assert_eq!(limiter.available_permits(), 3);
    limiter.close();
    let closed = dispatch(&failing, Some(&limiter), &roots).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn an_index_bomb_ends_at_once() {
    let store = support::store();
    let mut level = vec![support::image(&store, "linux/amd64").await; 2];
    let mut deepest_allowed = None;
    for depth in 1..=30 {
        // Two different indexes, each of which lists both indexes of the level below.
        let reversed: Vec<_> = level.iter().rev().cloned().collect();
        let other = [reversed, vec![level[0].clone()]].concat();
        level = vec![
            support::index(&store, &level).await,
            support::index(&store, &other).await,
        ];
        if depth == limit::INDEX_DEPTH {
            deepest_allowed = Some(level[0].clone());
        }
    }
    let begun = Instant::now();
    let children = children_handler(&*store.content);
    let roots = &level[..1];
    for outcome in [
        walk(&children, roots).await,
        dispatch(&children, None, roots).await,
        dispatch(&children, Some(&Semaphore::new(1)), roots).await,
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    // There are 2^30 ways from the root to the images.
    assert!(begun.elapsed() < Duration::from_secs(60));
    walk(&children, &[deepest_allowed.unwrap()]).await.unwrap();
}

#[tokio::test]
async fn an_endless_listing_reaches_the_bound() {
    let next = AtomicUsize::new(0);
    let endless = handler_fn(|_| async {
        let fresh = (0..100).map(|_| node(&next.fetch_add(1, Ordering::SeqCst).to_string()));
        Ok(Next::Children(fresh.collect()))
    });
    for outcome in [
        walk(&endless, &[node("root")]).await,
        in_time(dispatch(&endless, None, &[node("root")])).await,
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    assert!(next.load(Ordering::SeqCst) <= 2 * (limit::WALK + 100));
}
