"""``%load_ext qcity_nb``: notebooks that people run by hand, cell by cell.

May import: root, checkpoint, cells, namespace, kernel. Imported by: nobody.
"""
