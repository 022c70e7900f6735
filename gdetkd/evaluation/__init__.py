"""What a detector finds, its AP, and COCO submissions."""
