"""A generated stand-in for ImageNet and COCO: a few megabytes, packed exactly as the official archives are.

The class of a photo is the texture of the shapes in it. Everything else (the texture's direction and scale, the shapes'
outlines and places, ground and lighting) is drawn independently of the class, and there is no colour: colour jitter
hides it only in part, so contrastive training would learn that and nothing else. A linear probe on a randomly
initialised network does badly; what two crops of one photo share is its texture. The objects of the COCO part are
outlined shapes, and their kind is the category.
"""
