# Planner, simulator and the `smallplan` command on a PC: Ubuntu 24.04, ROS 2 Jazzy, llama.cpp for the CPU. Steps: the
# scripts beside this.
#
#   docker compose -f docker/workstation.compose.yaml build
#
# Images are pinned by digest, Python packages by requirements/constraints.txt.
ARG ROS_IMAGE=ros:jazzy-ros-core-noble@sha256:0fca5eb8d5e2240dcf0c002065c3eb13efe126f4d9382503917ea7ffdce694bc

FROM ${ROS_IMAGE} AS llama
WORKDIR /src
COPY docker/common.sh docker/install_packages.sh docker/
RUN docker/install_packages.sh build
COPY scripts/machine.py scripts/
COPY requirements requirements
COPY docker/build_llama.sh docker/
RUN docker/build_llama.sh cpu /wheels

# the ROS packages and what they import
FROM llama AS workspace
COPY docker/build_workspace.sh docker/slim_packages.sh docker/
COPY src src
COPY launch launch
COPY config config
COPY models models
RUN docker/build_workspace.sh workstation /opt/smallplan /wheels

# what runs
FROM ${ROS_IMAGE} AS runtime
COPY docker/common.sh docker/install_packages.sh docker/add_user.sh /opt/smallplan/docker/
RUN /opt/smallplan/docker/install_packages.sh runtime \
    && /opt/smallplan/docker/add_user.sh smallplan 10001 /var/lib/smallplan
COPY --from=workspace /opt/smallplan /opt/smallplan
COPY docker/entrypoint.sh docker/health.sh docker/check_image.sh docker/fastdds_udp.xml /opt/smallplan/docker/

ENV FASTRTPS_DEFAULT_PROFILES_FILE=/opt/smallplan/docker/fastdds_udp.xml \
    HOME=/var/lib/smallplan \
    ROS_LOG_DIR=/tmp/ros \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/smallplan
USER 10001:10001
RUN /opt/smallplan/docker/check_image.sh 10001

HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD ["/opt/smallplan/docker/health.sh", "--timeout", "8"]
ENTRYPOINT ["/opt/smallplan/docker/entrypoint.sh"]
# The node itself and not `ros2 launch`, which does not pass on the signal of `docker stop`.
CMD ["/opt/smallplan/install/lib/smallplan_planner/planner_node"]
