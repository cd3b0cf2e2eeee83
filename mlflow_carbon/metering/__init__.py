"""What is drawn from the wall: Carbontracker as an energy meter."""
