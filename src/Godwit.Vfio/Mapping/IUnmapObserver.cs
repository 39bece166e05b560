namespace Godwit.Vfio;

/// <summary>Brings what the device wrote through mappings that are gone to the migration bitmap.</summary>
internal interface IUnmapObserver
{
    /// <summary>
    /// These mappings are out of the host: nothing can be written through them any more. Called under the gate, after the table has been
    /// changed and before the guest is told.
    /// </summary>
    void Unmapped(ReadOnlySpan<Mapping> removed);
}
