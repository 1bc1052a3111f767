"""What all pages that people read have in common: their frame, tables, figures, clips, and a page for any one task."""
