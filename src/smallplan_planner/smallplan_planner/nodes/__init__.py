"""The planner's ROS 2 side: thin shells around the rest of the package. Only this folder imports rclpy or messages."""
