namespace Godwit.Vfio;

/// <summary>Brings what the device wrote through mappings that are gone to the migration bitmap.</summary>
internal interface IUnmapObserver
{
    /// <summary>
    /// This mapping is about to go; under the gate, in the order of the operations. True when the observer has queued its unmap itself,
    /// because what was written can only be read together with it.
    /// </summary>
    bool TryUnmap(in Mapping mapping) => false;

    /// <summary>
    /// These mappings are out of the host: nothing can be written through them any more. Called under the gate, after the table has been
    /// changed and before the guest is told.
    /// </summary>
    void Unmapped(ReadOnlySpan<Mapping> removed);
}
