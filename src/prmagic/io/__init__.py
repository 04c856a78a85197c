"""Files in and out: photos, supports, folders of results, labelling tools' formats."""
