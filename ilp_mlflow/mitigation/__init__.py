"""What fixes it: plans on trial beside a control, what they recover and what they break."""
