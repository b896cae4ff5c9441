"""The embedded house simulator: houses as data, a robot that senses them, and the search environment."""
