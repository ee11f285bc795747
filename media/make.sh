#!/bin/bash
# Makes media/demo.webm again: pictures and sound from media/make, encoded by ffmpeg, the seek index in front.
# The result is committed, so that building and testing need no ffmpeg.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/make" ./media/make
encode() { # pass, output
	"$work/make" -wav "$work/sound.wav" >"$work/pictures" && ffmpeg -v error -y \
		-f rawvideo -pix_fmt rgb24 -s 1280x720 -r 25 -i "$work/pictures" -i "$work/sound.wav" \
		-c:v libvpx-vp9 -b:v 640k -maxrate 1100k -g 50 -row-mt 1 -deadline good -cpu-used 2 -pix_fmt yuv420p \
		-pass "$1" -passlogfile "$work/log" -c:a libopus -b:a 96k -fflags +bitexact -map_metadata -1 \
		-cues_to_front 1 -shortest "${@:2}"
}
encode 1 -f webm /dev/null
encode 2 media/demo.webm
ls -l media/demo.webm
