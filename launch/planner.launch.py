"""The planner alone: ros2 launch smallplan_planner planner.launch.py [model_path:=…] [namespace:=…]

It waits for a scene graph on `scene_graph` and for an executor at `execute_action`; a search is started with
    ros2 action send_goal --feedback find_object smallplan_msgs/action/FindObject "{target: mug}"
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).resolve().parents[1] / "config"


def planner_node(context: LaunchContext) -> list[Node]:
    """The node; arguments that are left empty leave the value of the parameters file."""
    params_file = Path(LaunchConfiguration("params_file").perform(context)).expanduser()
    if not params_file.is_file():  # launch_ros would go on without it
        raise FileNotFoundError(f"params_file is '{params_file}': there is no such file")
    overrides = {"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}
    model_path = LaunchConfiguration("model_path").perform(context)
    if model_path:
        overrides["model_path"] = model_path
    return [
        Node(
            package="smallplan_planner",
            executable="planner_node",
            name="smallplan_planner",
            namespace=LaunchConfiguration("namespace"),
            parameters=[str(params_file), overrides],
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file", default_value=str(CONFIG / "planner.yaml"), description="ROS parameters of the planner"
            ),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of all names"),
            DeclareLaunchArgument(
                "model_path", default_value="", description="GGUF file; empty: as the parameters file says"
            ),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="take the time from /clock"),
            DeclareLaunchArgument("log_level", default_value="info", description="debug | info | warn | error"),
            OpaqueFunction(function=planner_node),
        ]
    )
