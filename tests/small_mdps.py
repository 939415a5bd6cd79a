"""Small MDPs of every kind, by name: for what has to hold in each."""

from pgtheory import gallery

MDPS = {
    "robot": gallery.recycling_robot(),
    "gridworld": gallery.gridworld(),
    "4x4": gallery.gridworld_4x4(),
    "corridor": gallery.short_corridor(),
    "toy": gallery.two_state_toy(),
    "student": gallery.student_mdp(),
    "garnet": gallery.garnet(30, 3, 4, stop_probability=0.1, seed=1),
    "gambler": gallery.gamblers_problem(goal=20),
    "tokens": gallery.token_tree(3, 3),
}
