//! The product's rules hold in every state within the bounds.
//!
//! `QUORATE_MODEL=large` goes further (minutes to an hour, and gigabytes).

use quorate_model::{Bounds, Conf, Model, Rules};

const SMALL: Bounds = Bounds { nodes: 3, terms: 3, writes: 1, changes: 0, wipes: 0, slow_disks: true };

fn prove(name: &str, model: Model) {
    let start = std::time::Instant::now();
    let states = model.symmetric().prove(2);
    eprintln!("{name}: {states} states in {:.1} s", start.elapsed().as_secs_f32());
}

#[test]
fn explore() {
    for w in 1..=3 {
        prove(&format!("N=3 W={w} t2"), Model::new(&[Conf::new(0b111, w)], Bounds { terms: 2, ..SMALL }, Rules::REAL));
        prove(
            &format!("N=3 W={w} fast"),
            Model::new(&[Conf::new(0b111, w)], Bounds { slow_disks: false, ..SMALL }, Rules::REAL),
        );
    }
    for w in 1..=4 {
        prove(
            &format!("N=4 W={w} t2 fast"),
            Model::new(&[Conf::new(0b1111, w)], Bounds { nodes: 4, terms: 2, slow_disks: false, ..SMALL }, Rules::REAL),
        );
    }
    for w in 1..=4 {
        prove(
            &format!("N=4 W={w} t2"),
            Model::new(&[Conf::new(0b1111, w)], Bounds { nodes: 4, terms: 2, ..SMALL }, Rules::REAL),
        );
    }
    for w in 1..=3 {
        prove(&format!("N=3 W={w}"), Model::new(&[Conf::new(0b111, w)], SMALL, Rules::REAL));
    }
}
#[test]
fn explore_changes() {
    let b = Bounds { changes: 1, terms: 2, slow_disks: false, ..SMALL };
    for (f, t) in [(1, 3), (3, 1), (2, 3), (2, 1)] {
        prove(&format!("W {f}->{t} t2 "), Model::new(&[Conf::new(0b111, f), Conf::new(0b111, t)], b, Rules::REAL));
    }
    let b = Bounds { nodes: 4, ..b };
    prove("replace t2", Model::new(&[Conf::new(0b0111, 2), Conf::new(0b1011, 2)], b, Rules::REAL));
    prove("grow t2", Model::new(&[Conf::new(0b0011, 1), Conf::new(0b1111, 3)], b, Rules::REAL));
    prove("shrink t2", Model::new(&[Conf::new(0b1111, 2), Conf::new(0b0111, 2)], b, Rules::REAL));
    let b = Bounds { terms: 3, ..b };
    prove("W 1->3", Model::new(&[Conf::new(0b111, 1), Conf::new(0b111, 3)], Bounds { nodes: 3, ..b }, Rules::REAL));
    prove("replace t2", Model::new(&[Conf::new(0b0111, 2), Conf::new(0b1011, 2)], b, Rules::REAL));
}
