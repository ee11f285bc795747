include $(sort $(wildcard $(BR2_EXTERNAL_BOXD_PATH)/package/*/*.mk))
