"""Transfer to COCO: an adapter to an installed mmdet (import its modules one by one; they need mmdet)."""
