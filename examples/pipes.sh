#!/usr/bin/env bash
# A stream into other programs, without a file in between: pipes.sh [SOURCE] [FOLDER] [SIZE] [OPTION of ms-stream]...
set -euo pipefail
source=${1:-demo} folder=${2:-.} size=${3:-256x256} # WIDTHxHEIGHT
stream=(ms-stream "$source" --seconds 2 --quiet "${@:4}")

# y4m says its size and rate itself. In the place of the file, "-f flv rtmp://..." goes live and "-f sdl -" opens a window.
"${stream[@]}" -o -.y4m | ffmpeg -loglevel error -y -i - -pix_fmt yuv420p "$folder/ffmpeg.mp4"

# Raw RGB, whose size has to be said. In the place of the last three, autovideosink opens a window.
"${stream[@]}" -o - | gst-launch-1.0 -q fdsrc fd=0 ! \
  rawvideoparse format=rgb "width=${size%x*}" "height=${size#*x}" framerate=16/1 ! videoconvert ! \
  theoraenc ! oggmux ! filesink location="$folder/gstreamer.ogv"
