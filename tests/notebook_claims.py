"""Sentences of the notebooks, each with a check of what its page prints or of the records."""

from notebook_page import (
    exploded,
    falls,
    gain,
    mean,
    open_both_ways,
    report,
    runs,
    tour_losses,
    verdict,
)

CLAIMS = {
    "00_tour": {
        "A distilled student is the same network at the same cost": lambda p: (
            "load_detector(STUDENT, DISTILLED)" in p.code
            and '"baseline": load_detector(STUDENT' in p.code
        ),
        "A teacher knows what labels lack": lambda p: (
            p.row("teacher: ", 2)[2] < 1 and p.value("baseline ", -1) < 1
        ),
        "On a short schedule much of the gain is speed": lambda p: (
            gain("gdetkd_3000", "baseline_3000")[0] < gain("gdetkd")[0] / 2
        ),
        "The student mostly misses digits": lambda p: (
            (r := p.row("baseline: ", 1))[2] > 5 * r[1] and r[0] > 5 * r[1]
        ),
        "surpasses the student that was distilled on the short one": lambda p: (
            mean("baseline_3000") > mean("gdetkd") and 0 < gain("gdetkd_3000", "baseline_3000")[0]
        ),
        '"Object or not" and the features fall from the first step': lambda p: (
            all(
                falls(tour_losses(p, who, name))
                for who, name in (
                    ("baseline", "loss_rpn_cls"),
                    ("distilled", "loss_rpn_cls"),
                    ("distilled", "kd_imitation"),
                    ("baseline", "loss_cls"),
                )
            )
            and not falls(tour_losses(p, "baseline", "loss_bbox"))
        ),
        "The contrastive loss grows while its queue": lambda p: (
            not falls(tour_losses(p, "distilled", "kd_contrastive"))
        ),
    },
    "01_proposal_similarities": {
        "Vectors of two networks cannot be compared": lambda p: (
            p.value("baseline and teacher, the same box: mean cosine") < 0.2
        ),
        "A baseline agrees with its teacher": lambda p: (
            p.value("by chance: agreement") < 0.05
            and (b := p.row("baseline: agreement on pooled features")[1]) > 0.3
            and p.row("distilled: agreement on pooled features")[1] - b > (1 - b) / 2
        ),
        "What the baseline lacks is not similarity": lambda p: (
            (b := p.row("baseline: one class"))[0] > (t := p.row("teacher: one class"))[0]
            and b[2] < t[2]
        ),
        "All three separate the classes.": lambda p: all(
            p.row(f"{name}: one class")[3] > 60 for name in ("teacher", "baseline", "distilled")
        ),
    },
    "02_contrastive": {
        "Pulling pairs together collapses": lambda p: (
            p.row("pull only: ")[2] < p.row("contrastive: ")[2]
        ),
        "A low temperature pushes only the hardest negatives": lambda p: (
            p.value("gamma 0.02:")
            > p.value("gamma 0.07:")
            > p.value("gamma 0.5 :")
            > p.value("of all proposals,")
            and p.row("gamma 0.02:")[1] < 1
        ),
        "Keep the projection linear": lambda p: (
            verdict("contrastive", "nonlinear") == "confirmed"
            and p.value("nonlinear:") < p.value("   linear:")
        ),
        "linear beats non-linear too, as in the paper": lambda p: (
            verdict("contrastive", "nonlinear") == "confirmed" and gain("nonlinear")[0] < 0
        ),
        "these seeds cannot distinguish the paper's 0.5 from either extreme": lambda p: all(
            verdict(*pair) == "not distinguishable"
            for pair in (
                ("contrastive", "iou_0.1"),
                ("contrastive", "iou_1"),
                ("memory_1", "memory_1_iou_1"),
            )
        ),
    },
    "03_memory": {
        "The rows of the paper's queue are constants beside": lambda p: (
            p.value("queue of 9 batches: ", -1) > 0.5 > p.value("no queue: ", -1)
        ),
        "the first gains most, and the second keeps almost all of it": lambda p: (
            gain("memory_1")[0] > gain("memory_reencoded_gradient")[0] > 0.9 * gain("memory_1")[0]
        ),
        "Large memories explode with an inner product": lambda p: (
            exploded(p, "inner product") == [0, 5, 5, 5, 5]
            and not sum(exploded(p, "cosine (the paper's)"))
        ),
        "a queue of two batches is enough for the loss to diverge": lambda p: (
            exploded(p, "inner product")[:2] == [0, 5]
        ),
        "the larger the memory, the worse the student distinguishes": lambda p: (
            (b := p.row("cosine (the paper's)", 1)[:5]) == sorted(b, reverse=True)
            and b[-1] < b[0] - 1
        ),
        "CKD keeps about half of that gain or less": lambda p: all(
            gain(f"memory_{size}")[0] < 0.55 * gain("memory_1")[0] for size in (5, 10, 15, 20)
        ),
    },
    "04_proofs": {
        "A critic that trusts nothing": lambda p: (
            p.value("gamma 100.00: loss") <= p.value("log(K + 1) =") < p.value("gamma   0.07: loss")
        ),
        "The formula is exact to floating-point precision.": lambda p: p.says(
            "r / sum of r: exact True", "p(s, t) / its sum: exact False"
        ),
        "Training finds the plane among the noise": lambda p: all(
            abs((r := p.row(f"concentration {kappa:4}:"))[0] - r[2]) < 0.01 for kappa in (2, 6, 20)
        ),
        "The identity holds to floating-point precision for both critics.": lambda p: p.says(
            "for both critics: True"
        ),
        "For the largest mutual information and few negatives": lambda p: (
            0 < (r := p.row("8.0 "))[0] - r[1] < 0.05 and r[2] < 0.05
        ),
        "The best critic is the density ratio": lambda p: (
            p.value("r(s, t): loss")
            == p.value("c(s) r(s, t): loss")
            < min(
                p.value("r(s, t) c(t): loss"),
                p.value("p(s, t): loss"),
                p.value("g =            1: loss"),
            )
        ),
        "A measured loss $L$ with $K$ negatives proves at least": lambda p: (
            p.value("corrected: L >= log(K + 1) - MI  =")
            <= p.value("           L                     =")
        ),
        "With few negatives a large mutual information cannot be measured": lambda p: (
            p.row("8.0 ")[1] < p.row("8.0 ")[0] < 8
        ),
    },
    "05_imitation": {
        "the level weights learn it from the features": lambda p: (
            (small := p.row("typical box,"))[1] > max(small[2:])
            and (large := p.row("largest box,"))[2] > max(large[1], *large[3:])
        ),
        "If both detectors share one rule, the fixed pairing is as good": lambda p: (
            p.value("the teacher's rule ")
            <= p.value("semantic-guided, no rule")
            < min(p.value("MMDetection's default"), p.value("one level off"))
        ),
        "Part of the gain comes from imitating on objects": lambda p: (
            verdict("imitation", "fitnet") == "confirmed"
            and verdict("imitation", "masked_imitation") == "not distinguishable"
        ),
        "Semantic-guided imitation is ahead of same-level imitation of whole maps": lambda p: (
            {verdict("imitation", name) for name in ("fitnet", "pkd")} == {"confirmed"}
        ),
    },
    "06_class_aware_regression": {
        "A teacher's class confidence is a rough, free measure": lambda p: all(
            (r := p.row(f"{quality} ")[-2:])[0] < r[1]
            for quality in ("0.5 to 0.6", "0.6 to 0.7", "0.7 to 0.8", "0.8 to 1.0")
        ),
        "Class-aware regression follows that confidence": lambda p: (
            (b := p.row("background  "))[-2] == 0 < b[-1]
        ),
        "at weight 1 both cost AP on digits": lambda p: (
            verdict("regression") == verdict("ground_truth_regression") == "contradicted"
            and {verdict(f"{name}_0.1") for name in ("regression", "ground_truth_regression")}
            == {"not distinguishable"}
        ),
        "The harm follows the push.": lambda p: (
            gain("ground_truth_regression")[0] < gain("regression")[0] < gain("regression_0.25")[0]
            and open_both_ways("regression_0.25", "ground_truth_regression_0.1")
            and open_both_ways("regression_0.25")
            and open_both_ways("ground_truth_regression_0.1")
        ),
        "What rises is the *class* loss, and AP50 falls with it.": lambda p: (
            (r := p.row("ground_truth_regression ")[:8])[0] > r[1]
            and r[2] < 0
            and r[4] < -0.1
            and abs(r[6]) < 0.05
        ),
        "the plain loss alone takes more than half of the gradient": lambda p: (
            (plain := p.row("plain   ")[:3])[2] > 0.5 > plain[0]
            and p.row("class-aware   ")[2] < 0.6 * plain[2]
        ),
        "is not worse without it and not better": lambda p: (
            verdict("gdetkd", "no_regression") == "not distinguishable"
        ),
    },
    "07_dense_students": {
        "matched and sampled like proposals": lambda p: p.says(
            "the adapter sampled the same boxes: True"
        ),
        "The classification branch says more about the teacher's representation": lambda p: (
            p.value("classification: mean") > p.value("localization: mean")
        ),
        "Features and contrast carry the gain of a dense pair": lambda p: (
            verdict("gdetkd_retinanet_2000", "retinanet_2000") == "confirmed"
            and gain("gdetkd_retinanet_2000", "retinanet_2000")[0]
            < gain("gdetkd_retinanet", "retinanet")[0] / 2
        ),
        "so it is open which branch is better": lambda p: (
            verdict("branch_classification", "retinanet") == "confirmed"
            and {
                verdict("branch_classification", f"branch_{other}")
                for other in ("localization", "combined")
            }
            == {"not distinguishable"}
        ),
        "all three directions of the paper are confirmed over five seeds": lambda p: (
            {
                verdict("branch_classification_reencoded_gradient", other)
                for other in (
                    "retinanet",
                    "branch_localization_reencoded_gradient",
                    "branch_combined_reencoded_gradient",
                )
            }
            == {"confirmed"}
        ),
        "three seeds show no effect of any branch": lambda p: all(
            open_both_ways(f"branch_{b}_2000", "retinanet_2000")
            for b in ("classification", "localization", "combined")
        ),
        "the baseline alone surpasses the student that was distilled for 800": lambda p: (
            mean("retinanet_2000") > mean("gdetkd_retinanet")
        ),
    },
    "08_score_conversion": {
        "A sigmoid is a softmax against a background logit of 0": lambda p: p.says(
            "sigmoid(x) is the first of softmax([x, 0]): True"
        ),
        "Section D's conversion rewards no background": lambda p: (
            p.value("yes to everything ") == 0 < min(p.row("yes to everything ")[1:])
        ),
        "the other two readings are undecided, within many points": lambda p: (
            verdict("conversion_object_scores", "retinanet") == "contradicted"
            and all(open_both_ways(f"conversion_{r}", "retinanet", 5) for r in ("none", "sigmoid"))
        ),
        "section D is below its baseline on both schedules": lambda p: (
            {verdict(f"conversion_object_scores{end}", f"retinanet{end}") for end in ("", "_2000")}
            == {"contradicted"}
        ),
        "Against the two other readings nothing is decided": lambda p: all(
            open_both_ways(f"conversion_object_scores{end}", f"conversion_{r}{end}")
            for r in ("none", "sigmoid")
            for end in ("", "_2000")
        ),
        "section D lets them rise, slowly": lambda p: (
            (
                last := [
                    p.row(f"{name}  ", -1)[-1]
                    for name in ("section D", "start", "softmax with 0", "sigmoid")
                ]
            )[0]
            > last[1]
            > max(last[2:])
        ),
    },
    "09_framework": {
        "the teacher's view of the same boxes": lambda p: p.says("13 of 13 values agree"),
        "Weigh losses by their gradients": lambda p: p.says(
            "first step         kd_imitation_loss", "trained student    kd_imitation_loss"
        ),
        "The teacher is in no checkpoint": lambda p: p.says("teacher in the state dict: False"),
        "imitation has by far the largest": lambda p: (
            min(p.value("kd_imitation_loss  ", -2), p.value("kd_imitation_loss  ", -1)) > 0.5
        ),
    },
    "10_loop": {
        "distillation is an addition to a training loop": lambda p: (
            "losses | distillation_losses" in p.code
        ),
        "student and teacher must speak of the same box": lambda p: (
            p.row("kd_contrastive_loss: first step")[1] < p.row("a guess among")[-1]
        ),
        "`Distiller` computes the same losses": lambda p: (
            p.shown.count("equal to 1e-5: True") == 6
            and "1e-5: False" not in p.shown
            and p.says("All keys matched")
        ),
        "Imitation falls far more than contrast": lambda p: (
            (i := p.row("kd_imitation_loss: first step"))[1] / i[0]
            < (c := p.row("kd_contrastive_loss: first step"))[1] / c[0]
            < 1
        ),
    },
    "11_launch": {
        "A run lives in its work dir": lambda p: p.says("run: finished, step 30"),
        "so the curve is bit for bit that of an undisturbed run": lambda p: p.says(
            "bit for bit: True"
        ),
        "The curve does not start over at the kill": lambda p: p.says(
            "bit for bit: True", "0 of them as before the kill"
        ),
        "loads in plain MMDetection": lambda p: p.says(
            "a FasterRCNN of mmdet", "the same AP as in the training: True"
        ),
    },
    "12_tables": {
        "Compare directions between benchmarks, never points.": lambda p: (
            p.row("gain of the full method, AP points:") == [3.9, 18.1]
        ),
        "Pair runs by seed, and count seeds": lambda p: (
            p.value("table1: ") > 20
            and p.value("standard deviation of the paired gains:")
            < p.value("the same if the runs were independent:")
        ),
        "many of the small differences stay open": lambda p: (
            (
                small := report.claims_table(runs()).query(
                    "`paper (COCO)` in ['+0.2', '+0.3', '+0.4']"
                )
            )["on digits"]
            .eq("not distinguishable")
            .mean()
            > 0.4
            and len(small) > 4
        ),
        "less of the gain is left": lambda p: (
            p.value("both on the teacher's schedule:")
            < p.value("over one with the same time:")
            < p.value("over a baseline with the same steps:")
        ),
        "Pairing helps to the extent": lambda p: (
            p.value("correlation of the two runs over seeds:") > 0
        ),
        "where it is above a dashed line": lambda p: p.value("main: ") > 5,
        "This direction of Table 6 is **missed** on digits": lambda p: all(
            gain(f"gdetkd_{family}_large", f"{family}_large")[0]
            > gain(f"gdetkd_{family}", family)[0] - 2
            for family in ("c4", "cascade")
        ),
        "three seeds show neither harm nor gain, within several points": lambda p: all(
            open_both_ways(name)
            for name in ("regression_0.25", "regression_0.1", "ground_truth_regression_0.1")
        ),
        "with a gradient through the queue, contrastive knowledge distillation": lambda p: (
            gain("memory_reencoded_gradient", "contrastive")[0]
            > 0.8 * gain("memory_1", "contrastive")[0]
        ),
    },
    "13_own_pictures": {
        "Check the data before the first step": lambda p: p.says(
            "objects: 377 in = 377 out + 0 reported"
        ),
        "three commands lead from a folder to a student that MMDetection loads": lambda p: (
            p.code.count("!gdetkd train") == 2
            and "!gdetkd data" in p.code
            and "!gdetkd distill" in p.code
            and "from mmdet.apis import init_detector" in p.code
        ),
        "One pair of short trainings is a rehearsal.": lambda p: (
            "short(60)" in p.code and "short(30)" in p.code and p.says("300 steps")
        ),
        "A weight of 1 for the imitation of features means something else": lambda p: (
            p.value("a weight of 1 would have ") > 10
        ),
        "with this AP it has little to say, and `distill` says so before the training": lambda p: (
            p.says("Warning: The teacher is")
        ),
    },
}
