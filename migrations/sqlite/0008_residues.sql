-- What sets of backups may still hold is counted from the moment on before which all is clear of them, whenever metrics
-- are read: of millions of batches those alone are looked at.
CREATE INDEX batch_done ON batch (settled_at) WHERE state = 'done';
