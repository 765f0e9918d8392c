//! Labels beside points, so that none covers another, a point, or a line.

use super::scene::{Point, Rect};

/// A point that wants a label of this size.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub at: Point,
    /// Of its marker.
    pub radius: f64,
    pub width: f64,
    pub height: f64,
}

/// Distances of a label from its marker, in pixels. From the third on a line has to lead to it.
const DISTANCES: [f64; 12] = [3.0, 9.0, 18.0, 30.0, 45.0, 62.0, 82.0, 105.0, 130.0, 160.0, 195.0, 240.0];
/// A label this far away does not need a line to its point.
pub const NEAR: f64 = 9.0;
/// Where a label may be, seen from its point: right and left, where it reads as one with the point, first.
const DIRECTIONS: [(f64, f64); 16] = [
    (1.0, 0.0),
    (-1.0, 0.0),
    (0.0, -1.0),
    (0.0, 1.0),
    (0.8, -0.6),
    (0.8, 0.6),
    (-0.8, -0.6),
    (-0.8, 0.6),
    (0.95, -0.3),
    (0.95, 0.3),
    (-0.95, -0.3),
    (-0.95, 0.3),
    (0.5, -0.87),
    (0.5, 0.87),
    (-0.5, -0.87),
    (-0.5, 0.87),
];
/// Kept free around each label.
const MARGIN: f64 = 2.0;

/// A place in the area for each label that finds one; none overlaps another, a marker, or an obstacle.
pub fn place(wishes: &[Wish], obstacles: &[Rect], area: Rect) -> Vec<Option<Rect>> {
    let mut taken: Vec<Rect> = obstacles.to_vec();
    taken.extend(wishes.iter().map(|wish| Rect::around(wish.at, wish.radius + 1.0)));
    // Who has the fewest places left chooses first: the points in the middle of others.
    let crowd = |wish: &Wish| {
        let near = |other: &&Wish| (other.at.x - wish.at.x).abs() < wish.width && (other.at.y - wish.at.y).abs() < 40.0;
        wishes.iter().filter(near).count()
    };
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(crowd(&wishes[index])));
    let mut placed: Vec<Option<Rect>> = vec![None; wishes.len()];
    let mut leaders: Vec<(Point, Point)> = Vec::new();
    for index in order {
        let wish = &wishes[index];
        let is_free = |rect: &Rect| area.contains(rect) && !taken.iter().any(|other| other.overlaps(rect));
        // A line to a point reads badly across labels, and past other points.
        let is_clear = |rect: &Rect| {
            let Some(end) = leader(wish, rect) else {
                return leaders.iter().all(|line| !crosses(line, rect));
            };
            let line = (wish.at, end);
            let others =
                wishes.iter().filter(|other| other.at != wish.at).map(|other| Rect::around(other.at, other.radius));
            leaders.iter().all(|other| !crosses(other, rect))
                && placed.iter().flatten().chain(&others.collect::<Vec<_>>()).all(|other| !crosses(&line, other))
        };
        let free: Vec<Rect> = candidates(wish).filter(is_free).collect();
        if let Some(&rect) = free.iter().find(|rect| is_clear(rect)).or(free.first()) {
            leaders.extend(leader(wish, &rect).map(|end| (wish.at, end)));
            taken.push(Rect {
                left: rect.left - MARGIN,
                right: rect.right + MARGIN,
                top: rect.top - MARGIN,
                bottom: rect.bottom + MARGIN,
            });
            placed[index] = Some(rect);
        }
    }
    placed
}

fn candidates(wish: &Wish) -> impl Iterator<Item = Rect> + '_ {
    DISTANCES.iter().flat_map(move |distance| {
        DIRECTIONS.iter().map(move |(x, y)| {
            let reach = wish.radius + distance;
            // The label's nearest side or corner is at that distance: its middle is half of its size further.
            let side = |direction: f64| if direction.abs() < 0.3 { 0.0 } else { direction.signum() };
            let middle_x = wish.at.x + x * reach + side(*x) * wish.width / 2.0;
            let middle_y = wish.at.y + y * reach + side(*y) * wish.height / 2.0;
            Rect {
                left: middle_x - wish.width / 2.0,
                right: middle_x + wish.width / 2.0,
                top: middle_y - wish.height / 2.0,
                bottom: middle_y + wish.height / 2.0,
            }
        })
    })
}

/// Where the line from a point to its label ends, if the label is so far away that it needs one.
pub fn leader(wish: &Wish, label: &Rect) -> Option<Point> {
    let end = Point { x: wish.at.x.clamp(label.left, label.right), y: wish.at.y.clamp(label.top, label.bottom) };
    let distance = (end.x - wish.at.x).hypot(end.y - wish.at.y) - wish.radius;
    (distance > NEAR + 1.0).then_some(end)
}

/// Whether a line goes through a rectangle.
fn crosses(line: &(Point, Point), rect: &Rect) -> bool {
    let (from, to) = line;
    // The share of the line that lies inside, direction by direction.
    let (mut enter, mut leave) = (0.0f64, 1.0f64);
    for (start, delta, low, high) in
        [(from.x, to.x - from.x, rect.left, rect.right), (from.y, to.y - from.y, rect.top, rect.bottom)]
    {
        if delta == 0.0 {
            if start <= low || start >= high {
                return false;
            }
        } else {
            let (first, second) = ((low - start) / delta, (high - start) / delta);
            enter = enter.max(first.min(second));
            leave = leave.min(first.max(second));
        }
    }
    enter < leave
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Rect = Rect { left: 0.0, top: 0.0, right: 800.0, bottom: 500.0 };

    fn wish(x: f64, y: f64) -> Wish {
        Wish { at: Point { x, y }, radius: 5.0, width: 110.0, height: 13.0 }
    }

    #[test]
    fn a_label_alone_is_to_the_right_and_near_the_edge_to_the_left() {
        let placed = place(&[wish(100.0, 100.0), wish(760.0, 300.0)], &[], AREA);
        let (first, second) = (placed[0].unwrap(), placed[1].unwrap());
        assert_eq!((first.left, (first.top + first.bottom) / 2.0), (108.0, 100.0));
        assert_eq!(second.right, 752.0);
        assert_eq!(leader(&wish(100.0, 100.0), &first), None);
    }

    #[test]
    fn in_a_crowd_no_label_covers_a_label_a_marker_or_an_obstacle() {
        // A cloud of points, closer to each other than a label is wide.
        let mut random = fastrand::Rng::with_seed(7);
        let wishes: Vec<Wish> =
            (0..40).map(|_| wish(250.0 + 300.0 * random.f64(), 150.0 + 200.0 * random.f64())).collect();
        let roof = Rect { left: 0.0, top: 140.0, right: 800.0, bottom: 142.0 };
        let placed = place(&wishes, &[roof], AREA);
        let found: Vec<Rect> = placed.iter().flatten().copied().collect();
        assert!(found.len() >= 38, "{} of 40 labels found a place", found.len());
        for (index, rect) in found.iter().enumerate() {
            assert!(AREA.contains(rect) && !rect.overlaps(&roof), "{rect:?}");
            assert!(found[index + 1..].iter().all(|other| !rect.overlaps(other)), "{rect:?}");
            assert!(wishes.iter().all(|wish| !rect.overlaps(&Rect::around(wish.at, wish.radius))), "{rect:?}");
        }
        let led =
            wishes.iter().zip(&placed).filter(|(wish, rect)| rect.is_some_and(|rect| leader(wish, &rect).is_some()));
        assert!(led.count() > 0, "some labels have to be away from their points");
    }

    #[test]
    fn a_line_crosses_what_it_goes_through_only() {
        let rect = Rect { left: 10.0, top: 10.0, right: 20.0, bottom: 20.0 };
        let line = |x0, y0, x1, y1| (Point { x: x0, y: y0 }, Point { x: x1, y: y1 });
        assert!(crosses(&line(0.0, 15.0, 30.0, 15.0), &rect));
        assert!(crosses(&line(0.0, 0.0, 30.0, 30.0), &rect));
        assert!(!crosses(&line(0.0, 15.0, 9.0, 15.0), &rect), "it ends before");
        assert!(!crosses(&line(0.0, 10.0, 30.0, 10.0), &rect), "along its side");
        assert!(!crosses(&line(0.0, 12.0, 12.0, 0.0), &rect), "past its corner");
    }

    #[test]
    fn where_there_is_no_room_there_is_no_label() {
        let small = Rect { left: 0.0, top: 0.0, right: 100.0, bottom: 100.0 };
        assert_eq!(place(&[wish(50.0, 50.0)], &[], small), [None]);
    }
}
