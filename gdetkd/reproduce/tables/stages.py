"""Which stage of a Cascade R-CNN teaches a Faster R-CNN best."""

from gdetkd.reproduce.experiments import component
from gdetkd.reproduce.registry import Row, register_table

# A Cascade R-CNN regresses one box for all classes, and its heads have other shapes.
COMMON = component("regression", weight=0.0) | {"model.transfer_heads": False}

register_table(
    "stages",
    "Cascade R-CNN teaches Faster R-CNN: which of its stages",
    (
        Row("teacher_cascade"),
        Row("baseline"),
        Row("no_transfer"),
        *(
            Row(f"stage_{stage}", f"Taught by stage {stage + 1} of a Cascade R-CNN",
                options=COMMON | {"model.teacher.stage": stage}, teacher="cascade",
                embedded_only=True)
            for stage in range(3)
        ),
    ),
    shows_gap=False,
    order=10,
)  # fmt: skip
