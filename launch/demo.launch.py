"""A simulated robot and the planner: ros2 launch smallplan_planner demo.launch.py [house:=…] [seed:=…] [speed:=…]

Both sit behind the topics and actions of a real robot. A search is started with
    ros2 action send_goal --feedback find_object smallplan_msgs/action/FindObject "{target: mug}"
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PLANNER = Path(__file__).resolve().parent / "planner.launch.py"

SIMULATION = {
    "house": ("", str, "house file (JSON, of this project or of ProcTHOR); empty: one is generated from the seed"),
    "seed": ("0", int, "seed of the house, the start and the target"),
    "target": ("", str, "what must be in the house to be searched for; empty: drawn by the seed"),
    "speed": ("1.0", float, "simulated seconds per second; 1 = real time, 0 = as fast as possible"),
}
PLANNING = {
    "params_file": (str(PLANNER.parents[1] / "config" / "planner.yaml"), "ROS parameters of the planner"),
    "model_path": ("", "GGUF file; empty: as the parameters file says"),
    "log_level": ("info", "debug | info | warn | error"),
}


def generate_launch_description() -> LaunchDescription:
    namespace = LaunchConfiguration("namespace")
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all names"),
        *(
            DeclareLaunchArgument(name, default_value=default, description=description)
            for name, (default, _, description) in SIMULATION.items()
        ),
        *(
            DeclareLaunchArgument(name, default_value=default, description=description)
            for name, (default, description) in PLANNING.items()
        ),
    ]
    parameters = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, (_, kind, _) in SIMULATION.items()
    }
    simulation = Node(
        package="smallplan_training",
        executable="sim_node",
        namespace=namespace,
        parameters=[parameters],
        on_exit=Shutdown(),
        output="screen",
        emulate_tty=True,
    )
    planner = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(PLANNER)),
        launch_arguments={name: LaunchConfiguration(name) for name in ("namespace", *PLANNING)}.items(),
    )
    return LaunchDescription([*arguments, simulation, planner])
