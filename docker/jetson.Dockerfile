# The planner on a Jetson Orin: JetPack 6 (L4T r36), ROS 2 Humble, llama.cpp for CUDA. Steps: the scripts beside this.
#
#   docker compose -f docker/jetson.compose.yaml build
#
# Images are pinned by digest, Python packages by requirements/constraints.txt.
ARG L4T_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0@sha256:34ccf0f3b63c6da9eee45f2e79de9bf7fdf3beda9abfd72bbf285ae9d40bb673
ARG ROS_IMAGE=ros:humble-ros-core-jammy@sha256:d2bbb43b75b4b73b0552fcedf0aa195d8e9bdd21fe50c02e5c0a791951a55f8e

# llama.cpp, with the compiler and the libraries of CUDA that belong to this L4T
FROM ${L4T_IMAGE} AS llama
WORKDIR /src
COPY docker/common.sh docker/install_packages.sh docker/
RUN docker/install_packages.sh build
COPY scripts/machine.py scripts/
COPY requirements requirements
COPY docker/build_llama.sh docker/collect_cuda.sh docker/
RUN docker/build_llama.sh cuda /wheels
RUN docker/collect_cuda.sh /wheels /cuda

# the ROS packages and what they import
FROM ${ROS_IMAGE} AS workspace
WORKDIR /src
COPY docker/common.sh docker/install_packages.sh docker/
RUN docker/install_packages.sh build
COPY requirements requirements
COPY --from=llama /wheels /wheels
COPY docker/build_workspace.sh docker/slim_packages.sh docker/
COPY src/smallplan_msgs src/smallplan_msgs
COPY src/smallplan_planner src/smallplan_planner
COPY launch launch
COPY config config
COPY models models
RUN docker/build_workspace.sh robot /opt/smallplan /wheels

# what runs
FROM ${ROS_IMAGE} AS runtime
COPY docker/common.sh docker/install_packages.sh docker/add_user.sh /opt/smallplan/docker/
RUN /opt/smallplan/docker/install_packages.sh runtime \
    && /opt/smallplan/docker/add_user.sh smallplan 10001 /var/lib/smallplan
COPY --from=llama /cuda /opt/smallplan/cuda
COPY --from=workspace /opt/smallplan /opt/smallplan
COPY docker/entrypoint.sh docker/health.sh docker/check_image.sh docker/fastdds_udp.xml docker/jetson.params.yaml \
    /opt/smallplan/docker/

# The second folder is where the NVIDIA runtime puts the driver of the host.
ENV LD_LIBRARY_PATH=/opt/smallplan/cuda:/usr/lib/aarch64-linux-gnu/nvidia \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    FASTRTPS_DEFAULT_PROFILES_FILE=/opt/smallplan/docker/fastdds_udp.xml \
    HOME=/var/lib/smallplan \
    ROS_LOG_DIR=/tmp/ros \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/smallplan
USER 10001:10001
RUN /opt/smallplan/docker/check_image.sh 10001

HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 \
    CMD ["/opt/smallplan/docker/health.sh", "--timeout", "8"]
ENTRYPOINT ["/opt/smallplan/docker/entrypoint.sh"]
# The node itself and not `ros2 launch`, which does not pass on the signal of `docker stop`.
CMD ["/opt/smallplan/install/lib/smallplan_planner/planner_node", \
     "--ros-args", "--params-file", "/opt/smallplan/docker/jetson.params.yaml"]
