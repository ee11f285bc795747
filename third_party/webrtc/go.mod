module github.com/pion/webrtc/v4

go 1.24

require github.com/pion/datachannel v1.5.9

replace github.com/pion/datachannel => ../datachannel
